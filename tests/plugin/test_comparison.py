from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss, one_hot
from torch.utils.data import TensorDataset, default_collate

from lightning_as import AdaptiveDataLoader, BinaryCrossEntropy, CrossEntropy
from tests.helpers.tiny import BATCH, Tiny, normal, refused, tiny_dataset, tiny_fit

N, C = 4 * BATCH, 3
WEIGHT = torch.tensor([1.0, 5.0, 0.2, 2.0])


def module(loss: Any, net: Any = None, **attributes: Any) -> Any:
    """A class of modules that are trained by a loss of the module, its output and the targets."""

    class Module(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.net = self.net if net is None else net()
            vars(self).update(attributes)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return loss(self, self.net(batch[0]), batch[1])

    return Module


def weighted(self: Any, z: Tensor, y: Tensor) -> Tensor:
    return (cross_entropy(z, y, reduction="none") * self.importance_weights).mean()


def pixels() -> AdaptiveDataLoader:
    """Of which the first half of the samples have fewer with a label."""
    targets = torch.arange(N * 4).view(N, 2, 2) % C
    targets[: N // 2, 0] = -100
    return AdaptiveDataLoader(TensorDataset(normal(N, 1, 2, 2), targets), BATCH, bins=None, seed=1)


def mixed() -> AdaptiveDataLoader:
    def collate(samples: Any) -> Any:
        x, y = default_collate(samples)
        shares = one_hot(y, 4).float()
        return 0.7 * x + 0.3 * x.flip(0), 0.7 * shares + 0.3 * shares.flip(0)

    return AdaptiveDataLoader(tiny_dataset(), BATCH, collate_fn=collate, seed=0)


def over_samples(self: Any, z: Tensor, y: Tensor) -> Tensor:
    return CrossEntropy()(z, y).mean()


def messages(folder: Path, make: Any, **options: Any) -> list[str]:
    return [one for one in tiny_fit(folder, make=make, **options).messages if "returned a loss" in one]


SMOOTHED = module(lambda self, z, y: cross_entropy(z, y, label_smoothing=0.3))


def test_another_loss_is_said_once_with_both_numbers_and_may_be_left_unsaid(tmp_path: Path):
    (message,) = messages(tmp_path, SMOOTHED, max_epochs=2)
    assert "samples' losses is" in message
    assert "per_sample_loss=" in message
    assert messages(tmp_path, SMOOTHED, ours={"per_sample_loss": nn.CrossEntropyLoss(label_smoothing=0.3)}) == []
    assert messages(tmp_path, SMOOTHED, ours={"compare_loss": False}) == []


class ByLBFGS(Tiny):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), max_iter=3)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.scale * logits, targets)


class Learning(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = Scaled()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.criterion(self.net(batch[0]), batch[1])


convolution = lambda: nn.Conv2d(1, C, 1)  # noqa: E731
AGREEING: dict[str, Any] = {
    "plain, accumulated": (Tiny, {"accumulate_grad_batches": 3}),
    "narrow": (Tiny, {"precision": "bf16-true"}),
    "a sum": (module(lambda self, z, y: cross_entropy(z, y, reduction="sum")), {}),
    "weights of classes": (
        module(lambda self, z, y: cross_entropy(z, y, WEIGHT.to(z.device))),
        {"ours": {"per_sample_loss": nn.CrossEntropyLoss(WEIGHT)}},
    ),
    "weights of samples": (module(weighted, importance_weights=None), {"ours": {"weights": "unbiased"}}),
    "targets mixed in collate": (Tiny, {"data": mixed}),
    "a mean over pixels": (module(lambda self, z, y: cross_entropy(z, y), convolution), {"data": pixels}),
    "over samples, weighted": (module(over_samples, convolution), {"data": pixels, "ours": {"weights": "unbiased"}}),
    "their own losses": (
        module(lambda self, z, y: {"loss": z.sum(), "losses": cross_entropy(z, y, reduction="none")}),
        {},
    ),
    "the last of several evaluations": (ByLBFGS, {}),
    "a criterion that learns": (Learning, {"ours": {"per_sample_loss": "criterion"}}),
    "of another pass": (SMOOTHED, {"ours": {"recompute": True, "logits_from": None}}),
}


@pytest.mark.parametrize(("make", "options"), AGREEING.values(), ids=AGREEING)
def test_what_agrees_or_is_not_ours_to_compare_passes_without_a_word(
    tmp_path: Path, make: Any, options: dict[str, Any]
):
    if options.get("ours", {}).get("recompute"):
        make.forward = lambda self, x: self.net(x)
    data = {"data": options["data"]()} if "data" in options else {}
    assert messages(tmp_path, make, **{**options, **data}) == []


def data(targets: Tensor) -> AdaptiveDataLoader:
    return AdaptiveDataLoader(TensorDataset(tiny_dataset().tensors[0], targets), BATCH, bins=None)


LABELS = tiny_dataset().tensors[1]
OTHER_KINDS: dict[str, Any] = {
    "several yes or no": (
        module(lambda self, z, y: BinaryCrossEntropy()(z, y).mean()),
        lambda: data((normal(len(LABELS), 4) > 0).float()),
        {},
        r"class probabilities, but these do not sum to one, and the loss .*per_sample_loss=`, such as Binary",
    ),
    "one number": (
        module(lambda self, z, y: (z - y).square().mean(), lambda: nn.Linear(8, 1)),
        lambda: data(normal(len(LABELS), 1)),
        {},
        r"one number for each sample, \(16, 1\), of which cross-entropy is always 0.*per_sample_loss=",
    ),
    "out of range": (
        module(lambda self, z, y: z.mean()),
        lambda: data(LABELS + 252),
        {},
        r"The target 25\d is not the index of one of the 4 classes.*ignore_index=.*target_key=",
    ),
    "numbers": (
        module(lambda self, z, y: z.mean()),
        lambda: data(normal(len(LABELS))),
        {},
        "must be integers, got torch.float32.*per_sample_loss=",
    ),
    "weights on a mean over pixels": (
        module(lambda self, z, y: cross_entropy(z, y), convolution),
        pixels,
        {"weights": "unbiased"},
        "`weights` scale .* the mean over all entries of the batch.*`weights='none'`",
    ),
}


@pytest.mark.parametrize(("make", "make_data", "ours", "message"), OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_what_differs_in_kind_is_refused_at_the_first_batch(
    tmp_path: Path, make: Any, make_data: Any, ours: Any, message: str
):
    steps = []
    make.on_train_batch_end = lambda self, *hook: steps.append(1)
    with refused(message):
        tiny_fit(tmp_path, make=make, data=make_data(), ours=ours)
    assert steps == []


def test_weights_are_compared_in_any_batch_of_pixels(tmp_path: Path):
    def fewer_in_the_last(self: Any, z: Tensor, y: Tensor) -> Tensor:
        y[:] = y.clamp(min=0)
        y[0, : self.global_step // 3] = -100
        return cross_entropy(z, y)

    for weights, expected in (("unbiased", refused("mean over all entries of the batch")), ("none", nullcontext())):
        with expected:
            tiny_fit(tmp_path, make=module(fewer_in_the_last, convolution), data=pixels(), ours={"weights": weights})


def test_probabilities_are_warned_of(tmp_path: Path):
    ends = lambda: nn.Sequential(nn.Linear(8, 4), nn.Softmax(1))  # noqa: E731
    fitted = tiny_fit(tmp_path, make=module(lambda self, z, y: nll_loss(z.log(), y), ends))
    assert sum("seem to be probabilities" in message for message in fitted.messages) == 1
