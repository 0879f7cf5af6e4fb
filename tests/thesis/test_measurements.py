import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

from lightning_as import AdaptiveSampling, AdaptiveSamplingCallback, ConvNetClassifier, MNISTDataModule, Strategy
from thesis.measurements import MEASURED, Clock, Measurements, measure, variances


def fit(
    make_trainer: Callable[..., Trainer], epochs: int, strategy: Strategy, *more: Callback, measured: bool = True
) -> tuple[ConvNetClassifier, MNISTDataModule, Measurements]:
    seed_everything(0, verbose=False)
    data, clock = MNISTDataModule(20, seed=0), Clock()
    measurements = Measurements(data, strategy, clock)
    callbacks = [clock, AdaptiveSamplingCallback(strategy), *([measurements] if measured else []), *more]
    module = ConvNetClassifier()
    make_trainer(max_epochs=epochs, callbacks=callbacks).fit(module, data)
    return module, data, measurements


def oracle(module: ConvNetClassifier, data: MNISTDataModule, law: list[float]) -> dict[str, Any]:
    """The definitions, sample by sample, in Python's floats."""

    def outcomes(part: Any) -> list[tuple[float, list[float], bool]]:
        dataset, found = data.dataset(part), []
        assert dataset.labels is not None
        module.eval()
        with torch.no_grad():
            logits = torch.cat([module(images) for images in dataset.images.split(128)]).tolist()
        for z, y in zip(logits, dataset.labels.tolist(), strict=True):
            shifted = [math.exp(value - max(z)) for value in z]
            softmax = [value / math.fsum(shifted) for value in shifted]
            gradient = [value - (j == y) for j, value in enumerate(softmax)]
            found.append((-math.log(softmax[y]), gradient, z.index(max(z)) == y))
        return found

    train, test = outcomes("train"), outcomes("test")
    n, losses = len(train), [loss for loss, _, _ in train]
    d = [gradient for _, gradient, _ in train]
    g = [math.sqrt(math.fsum(x * x for x in row)) for row in d]
    mean = [math.fsum(row[j] for row in d) / n for j in range(10)]
    drawn = [math.fsum(r * row[j] for r, row in zip(law, d, strict=True)) for j in range(10)]
    labels = data.dataset("train").labels
    assert labels is not None
    pairs = list(zip(g, law, strict=True))
    return {
        "training_cost_mean": math.fsum(losses) / n,
        "training_cost_median": statistics.median(losses),
        "test_cost": math.fsum(loss for loss, _, _ in test) / len(test),
        "test_accuracy": sum(right for _, _, right in test) / len(test),
        "ess": 1 / math.fsum(r * r for r in law),
        "variance_uniform": math.fsum(x * x for x in g) / n - math.fsum(x * x for x in mean),
        "variance_weighted": math.fsum(x * x / r for x, r in pairs) / n**2 - math.fsum(x * x for x in mean),
        "variance_drawn": math.fsum(r * x * x for x, r in pairs) - math.fsum(x * x for x in drawn),
        "p": [math.fsum(r for r, y in zip(law, labels.tolist(), strict=True) if y == j) for j in range(10)],
    }


def test_every_column_is_what_it_is_defined_as(make_trainer: Callable[..., Trainer]):
    strategy = AdaptiveSampling()
    module, data, measurements = fit(make_trainer, 3, strategy)
    assert [list(row) for row in measurements.rows] == [list(MEASURED)] * 4
    assert [row["epoch"] for row in measurements.rows] == ["0", "1", "2", "3"]
    law = strategy.probabilities().tolist()
    assert max(law) > 2 * min(law)
    row = measurements.rows[-1]
    for name, value in oracle(module, data, law).items():
        expected = value if isinstance(value, list) else [value]
        assert [float(part) for part in row[name].split(";")] == pytest.approx(expected, rel=1e-5), name


def test_before_the_first_step_it_measures_the_untrained_network(make_trainer: Callable[..., Trainer]):
    _, data, measurements = fit(make_trainer, 1, AdaptiveSampling(floor=0.0))
    seed_everything(0, verbose=False)
    labels = data.dataset("train").labels
    assert labels is not None
    law = (0.1 / labels.bincount().double())[labels].tolist()
    row = measurements.rows[0]
    for name, value in oracle(ConvNetClassifier(), data, law).items():
        expected = value if isinstance(value, list) else [value]
        assert [float(part) for part in row[name].split(";")] == pytest.approx(expected, rel=1e-5), name
    assert row["seconds"] == "0"


def test_it_leaves_no_trace_in_the_training(make_trainer: Callable[..., Trainer]):
    class Flags(Callback):
        found: bool

        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.found = all(part.training for part in pl_module.network.modules())

    flags = Flags()
    measured, _, _ = fit(make_trainer, 2, AdaptiveSampling(), flags)
    plain, _, _ = fit(make_trainer, 2, AdaptiveSampling(), measured=False)
    assert flags.found
    for name, value in plain.state_dict().items():
        assert torch.equal(measured.state_dict()[name], value), name


def test_measuring_takes_no_random_numbers():
    module, data, strategy = ConvNetClassifier(), MNISTDataModule(20, seed=0), AdaptiveSampling()
    data.setup("fit")
    assert data.sampler is not None
    data.sampler.attach(strategy)
    before = torch.get_rng_state()
    first = measure(module, data, strategy)
    assert torch.equal(torch.get_rng_state(), before)
    assert measure(module, data, strategy) == first
    assert module.training


@pytest.mark.parametrize("seed", [0, 1])
def test_the_variances_are_those_of_draws(seed: int):
    generator = torch.Generator().manual_seed(seed)
    d = torch.randn(30, 4, generator=generator, dtype=torch.float64) + 0.5
    r = torch.rand(30, generator=generator, dtype=torch.float64) + 0.05
    r /= r.sum()

    def trace(estimates: Tensor, law: Tensor) -> float:
        """The exact covariance of a discrete random vector, entry by entry of the diagonal."""
        mean = (law[:, None] * estimates).sum(0)
        return float((law[:, None] * (estimates - mean) ** 2).sum())

    found = variances(d, r)
    uniform = torch.full_like(r, 1 / 30)
    assert found["variance_uniform"] == pytest.approx(trace(d, uniform), rel=1e-12)
    assert found["variance_weighted"] == pytest.approx(trace(d / (30 * r)[:, None], r), rel=1e-12)
    assert found["variance_drawn"] == pytest.approx(trace(d, r), rel=1e-12)


def test_what_is_never_drawn_makes_it_infinite_unless_it_has_no_gradient():
    law = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    d = torch.tensor([[1.0, -1.0], [2.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    assert variances(d, law)["variance_weighted"] == math.inf
    assert math.isfinite(variances(d.flip(0), law)["variance_weighted"])


def test_the_clock_stands_still_between_epochs_and_goes_on_from_a_checkpoint():
    class Module:
        device = torch.device("cpu")

    def work(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    clock: Any = Clock()
    clock.on_train_epoch_start(None, Module)
    work(0.05)
    clock.on_train_epoch_end(None, Module)
    work(0.2)
    assert 0.05 <= clock.seconds < 0.15
    other: Any = Clock()
    other.load_state_dict(clock.state_dict())
    other.on_train_epoch_start(None, Module)
    work(0.05)
    other.on_train_epoch_end(None, Module)
    assert clock.seconds + 0.05 <= other.seconds < clock.seconds + 0.15
