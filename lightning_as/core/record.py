"""What training has shown of each instance: how often it was drawn, and how it fared whenever it was.

The times learnt and forgotten are those of Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural
Network Learning" (ICLR 2019): the prediction was wrong before and is right now, or the reverse; before the first look
it counts as wrong. The mean margin is the area under the margin of Pleiss et al., "Identifying Mislabeled Data using
the Area Under the Margin Ranking" (NeurIPS 2020). Confidence and variability are the axes of the data maps of
Swayamdipta et al., "Dataset Cartography" (EMNLP 2020), here over the last visits: those of an adaptive sampler are few
for one instance and many for another, and of different times. The late margin is a mean margin, too, to which each look
counts by the square of its batch's number: what a network knows late in a training tells wrong labels from hard ones
better, see `docs/suspects.md`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_as.core.execution import Viewing, loops
from lightning_as.core.state import require
from lightning_as.core.tree_in_bins import last_occurrence

SMOOTHING = 0.7
"""The share that a smoothed number keeps of itself in each visit."""
_LARGEST = torch.finfo(torch.float32).max  # what is finite stays so, or the state would be refused as damaged
_VARIANCE = 3  # in a row of numbers
_DRAWN, _LAST, _LOOKS = range(3)  # in a row of counts

LOSS, BOUND, CONFIDENCE, MARGIN, LABEL, OTHER = range(6)
"""The rows of a look at a batch, (6, B) float64 with NaN for what is not known: the loss; the squared norm of its
gradient with respect to the logits; the probability of the label; its logit minus the largest other one; the label; the
class of that other one."""


class Record(Viewing):
    """What is known of each of N instances, in 56 bytes of each.

    Of an instance that is several times in a batch the last look counts. Numbers too large for float32 are the largest.

    Args:
        size: N.
        device: Where it is kept.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._numbers = torch.full((size, 7), torch.nan, dtype=torch.float32, device=device)
        self._counts = torch.zeros((size, 7), dtype=torch.int32, device=device)
        loops(device)  # which takes a while the first time, and not amid a step
        self.batches = 0
        """Number of batches that were noted."""

    def to(self, device: torch.device) -> Record:
        """The same on another device."""
        moved = Record(len(self._numbers), device)
        moved.load_state_dict(self.state_dict())
        return moved

    def add(self, indices: Tensor, look: Tensor) -> None:
        """Note a batch that was trained on: its instances, (B,) int64, and the look at them, (6, B) float64. O(B)."""
        self.batches += 1
        if (compiled := loops(self._numbers.device)) is not None:
            own = self.views(self._numbers, self._counts)
            arrays = indices.contiguous().numpy(), look.numpy()
            compiled.note_looks(*own, self.batches, *arrays, SMOOTHING, self._weight)
        else:
            self._add_in_torch(indices, look)

    @torch.inference_mode()
    def _add_in_torch(self, indices: Tensor, look: Tensor) -> None:
        look = look.index_select(1, last_occurrence(indices))
        numbers, counts = (table.index_select(0, indices) for table in (self._numbers, self._counts))
        self._numbers.index_copy_(0, indices, self._moved(numbers, counts, look))
        self._counts.index_copy_(0, indices, self._counted(counts, look))
        self._counts[:, _DRAWN].index_add_(0, indices, torch.ones_like(counts[:, _DRAWN]))

    def _moved(self, numbers: Tensor, counts: Tensor, look: Tensor) -> Tensor:
        """The rows of numbers after a look at them, (B, 7)."""
        loss, smoothed, confidence, variance, margin, late, weight = numbers.to(look.dtype).unbind(1)
        finite = look[LOSS].isfinite()
        first, away = confidence.isnan(), (look[CONFIDENCE] - confidence).nan_to_num(0.0)
        spread = SMOOTHING * (variance.nan_to_num(0.0) + (1 - SMOOTHING) * away.square())
        moved = torch.where(first, look[CONFIDENCE], confidence + (1 - SMOOTHING) * away)
        looks = counts[:, _LOOKS] + 1
        mean = torch.where(looks == 1, look[MARGIN], margin + (look[MARGIN] - margin) / looks)
        total = weight.nan_to_num(0.0) + self._weight
        later = torch.where(looks == 1, look[MARGIN], late + (look[MARGIN] - late) * (self._weight / total))
        eased = torch.where(smoothed.isnan(), look[LOSS], torch.lerp(look[LOSS], smoothed, SMOOTHING))
        known = _known(look)
        parts = [
            torch.where(finite, look[LOSS], loss),
            torch.where(finite, eased, smoothed),
            torch.where(known, moved, confidence),
            torch.where(known, spread, variance),
            torch.where(known, mean, margin),
            torch.where(known, later, late),
            torch.where(known, total, weight),
        ]
        return torch.stack(parts, 1).clamp(-_LARGEST, _LARGEST).float()

    def _counted(self, counts: Tensor, look: Tensor) -> Tensor:
        """The rows of counts after a look at them, (B, 7), but for the times drawn."""
        drawn, _, looks, learnt, forgotten, label, other = counts.unbind(1)
        known, right, was_right = _known(look), look[MARGIN] > 0, learnt > forgotten
        parts = [
            drawn,
            torch.full_like(drawn, self.batches),
            looks + known,
            learnt + (known & right & ~was_right),
            forgotten + (known & ~right & was_right),
            torch.where(look[LABEL] >= 0, look[LABEL] + 1, label),
            torch.where(known, look[OTHER] + 1, other),
        ]
        return torch.stack([part.to(torch.int32) for part in parts], 1)

    @property
    def _weight(self) -> float:
        """Of a look at the present batch in the late margin."""
        return float(self.batches) ** 2

    def columns(self) -> dict[str, Tensor]:
        """What is known, by name, (N,) each on the CPU: float64 with NaN, int64 with −1 for what is not known."""
        loss, smoothed, confidence, variance, margin, late, _ = self._numbers.cpu().double().unbind(1)
        drawn, last, looks, learnt, forgotten, label, other = self._counts.cpu().long().unbind(1)
        unseen = looks == 0
        return {
            "label": label - 1,
            "drawn": drawn,
            "share": drawn / max(int(drawn.sum()), 1),
            "loss": loss,
            "smoothed_loss": smoothed,
            "confidence": confidence,
            "variability": variance.sqrt(),
            "margin": margin,
            "late_margin": late,
            "other": other - 1,
            "learnt": learnt.masked_fill(unseen, -1),
            "forgotten": forgotten.masked_fill(unseen, -1),
            "age": (self.batches - last).masked_fill(last == 0, -1),
        }

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors and ints, on the CPU; copies."""
        numbers, counts = (table.detach().to("cpu", copy=True) for table in (self._numbers, self._counts))
        return {"numbers": numbers, "counts": counts, "batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of as many instances, whose layout has been checked."""
        numbers, counts = state["numbers"], state["counts"]
        require((numbers[:, _VARIANCE].nan_to_num(0) >= 0).all(), "`record.numbers` has a negative variance")
        require((counts[:, _LAST] <= state["batches"]).all(), "`record.counts` has batches that were not")
        self._numbers.copy_(numbers)
        self._counts.copy_(counts)
        self.batches = state["batches"]


def _known(look: Tensor) -> Tensor:
    return look[MARGIN].isfinite() & look[CONFIDENCE].isfinite()
