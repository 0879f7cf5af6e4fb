from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lightning_as import hand_over
from tests.helpers.tiny import EPOCH, Manual, Tiny, TinyData, refused, tiny_fit, tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


class Handing(Tiny):
    """Gives its losses and logits in training and in validation, and returns the loss alone."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        losses = 3 * cross_entropy(logits, batch[1], reduction="none")
        hand_over(self, losses=torch.zeros(1))  # the last counts
        hand_over(self, losses=losses, logits=logits)
        if self.training:
            self.given.append(losses.detach().cpu().double())
        return losses.mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step((batch[0][:3], batch[1][:3]), batch_idx)


class HandingByHand(Handing):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        if self.training:
            self.manual_backward(loss)


@pytest.mark.parametrize("make", [Handing, HandingByHand])
@pytest.mark.parametrize("logits_from", [None, "net"])
def test_what_is_handed_over_counts_as_if_returned(tmp_path: Path, make: Any, logits_from: str | None):
    options: dict[str, Any] = {"limit_val_batches": 2, "val_check_interval": 2, "max_epochs": 2}
    strategy, _, _, module, _ = tiny_fit(tmp_path, None, make, ours={"logits_from": logits_from}, **options)
    assert len(strategy.told) == len(module.given) == 2 * EPOCH
    for (_, losses, bounds), given in zip(strategy.told, module.given, strict=True):
        assert torch.equal(losses, given)
        assert float(bounds.min()) > 0


class GAN(Manual):
    """Its discriminator is called on drawn and on generated samples, in passes of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = nn.Linear(2, 8), nn.Linear(8, 1)
        self.given: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = self.discriminator(2 * batch[0])
        losses = binary_cross_entropy_with_logits(real, torch.ones_like(real), reduction="none")[:, 0]
        self.given.append(losses.detach().cpu().double())
        self.manual_backward(losses.mean())
        self.manual_backward(self.discriminator(self.generator(torch.ones(len(real), 2, device=self.device))).mean())
        if self.hands:
            hand_over(self, losses=losses, logits=real)

    hands = True


def test_a_gan_hands_over_what_a_hook_cannot_tell(tmp_path: Path):
    strategy, _, _, module, _ = tiny_fit(
        tmp_path, None, GAN, ours={"logits_from": "discriminator", "gradient_bound": lambda z, y: z[:, 0].square()}
    )
    assert [losses.tolist() for _, losses, _ in strategy.told] == [losses.tolist() for losses in module.given]
    module = GAN()
    module.hands = False
    with refused(
        r"'discriminator'` is called several times .*: 1. \(16, 8\) → \(16, 1\), 2. .* `hand_over\(self, logits=…\)`"
    ):
        tiny_fit(tmp_path, None, lambda: module, ours={"logits_from": "discriminator"})


def test_without_the_callback_or_a_trainer_it_does_nothing(tmp_path: Path):
    hand_over(Tiny(), losses=torch.zeros(3))
    tiny_trainer(tmp_path, limit_val_batches=0).fit(Handing(), datamodule=TinyData())
    with pytest.raises(ValueError, match="`hand_over` needs the `losses` or the `logits` of the drawn batch"):
        hand_over(Tiny())
