"""P: the distribution over the bins, given as it is or recomputed every β batches from accumulated gradient bounds.

Thesis, eq. (67) and lines 11 to 15 of Algorithm 1: p_j ∝ √(Σ_{i ∈ c_j} ‖∇L_i‖² / q_i), which minimises the
variance of the gradient estimate for a given Q. What stands under the root is estimated from the instances
that were drawn, and the thesis, its annex D and Gopal (ICML 2016) each estimate something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_as.core.draw import LARGEST_UNIFORM
from lightning_as.core.execution import Viewing, loops
from lightning_as.core.state import require
from lightning_as.core.sum_tree import SMALLEST_WEIGHT

BinStatistic = Literal["sum", "sum_over_q", "mean", "second_moment"]
Smoothing = Literal["previous", "original", "statistic"]


class BinDistribution:
    """P over k bins.

    Args:
        probabilities: P, (k,) float64.
    """

    def __init__(self, probabilities: Tensor) -> None:
        self.set(probabilities)

    @property
    def probabilities(self) -> Tensor:
        """P, (k,) float64."""
        return self._probabilities

    @property
    def cumulative(self) -> Tensor:
        """The sums of P, (k,) float64, which end in 1: a bin with p = 0 has no part of its own."""
        return self._cumulative

    def set(self, probabilities: Tensor) -> None:
        """Take over P, (k,) float64."""
        self._probabilities = probabilities
        drawable = torch.nn.functional.threshold(probabilities, SMALLEST_WEIGHT, 0.0)
        cumulative = drawable.cumsum(0)
        self._cumulative = cumulative / cumulative[-1]  # ends in exactly 1, also at bins with p = 0 in the end

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors, on the CPU, and ints."""
        return {"probabilities": self._probabilities.clone().cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of as many bins."""
        probabilities = state["probabilities"]
        require((probabilities >= 0).all() & ((probabilities.sum() - 1).abs() < 1e-6), "`probabilities` are none")
        self.set(probabilities.to(self._probabilities.device, copy=True))


class GradientBinDistribution(BinDistribution, Viewing):
    """P that follows gradient bounds.

    Args:
        sizes: Number of instances in each bin, k numbers.
        beta: β, batches between two recomputations. None: only :meth:`recompute` does it. Default: 10.
        delta_p: δp in [0, 1), the share of P that is not the new estimate. Default: 0.9.
        statistic: What estimates the sum under the root, from the squared gradient bounds Ĝ of the draws.
            ``"sum"``, line 11 of the thesis: Σ Ĝ. ``"sum_over_q"``, line 12 of annex D, read per draw: Σ Ĝ/q.
            ``"mean"``, Gopal's eq. (8): |c_j|² · mean Ĝ, which is right for a uniform Q.
            ``"second_moment"``: mean Ĝ/q², the unbiased estimate of Σ Ĝ/q for any Q. Default: ``"sum"``.
        smoothing: What δp mixes the estimate with: ``"previous"``, line 14: the P before; ``"original"``,
            Gopal: the bins' shares of the data, a floor that P never leaves; ``"statistic"``: what was under each
            root before, so that a bin keeps its last estimate while it is not drawn. This one needs a statistic that
            does not grow with the number of draws: ``"mean"`` or ``"second_moment"``. Default: ``"previous"``.
        proportional: Start from the bins' shares of the data instead of equal ones. Default: False.
        device: Where it lives. Default: the CPU.

    Raises:
        ValueError: If the smoothing does not go with the statistic.
    """

    def __init__(
        self,
        sizes: list[int],
        beta: int | None = 10,
        delta_p: float = 0.9,
        statistic: BinStatistic = "sum",
        smoothing: Smoothing = "previous",
        proportional: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        check_smoothing(statistic, smoothing)
        self.beta = beta
        self.delta_p = delta_p
        self.statistic = statistic
        self.smoothing = smoothing
        self._sizes = torch.tensor(sizes, dtype=torch.float64, device=device)
        self._accumulated = torch.zeros_like(self._sizes)
        self._count = torch.zeros_like(self._sizes)
        self._averaged = torch.full_like(self._sizes, -1)  # what is under the roots, -1 where it is not known
        self.age = 0
        """Batches since P was last recomputed."""
        self._shares = self._sizes / self._sizes.sum()
        super().__init__(self._shares if proportional else torch.full_like(self._sizes, 1 / len(sizes)))

    def update(self, bins: Tensor, bounds: Tensor, within: Tensor) -> None:
        """Accumulate the bounds of a trained batch; recompute P if it is the β-th since the last time.

        Args:
            bins: The bin of each instance, (B,) int64.
            bounds: Squared gradient bounds Ĝ, (B,) float64; NaN where one is not known, which is left out.
            within: Probability q of each instance in its bin at the time of the draw, (B,) float64.
        """
        power = {"sum_over_q": 1, "second_moment": 2}.get(self.statistic, 0)
        counted = self.statistic in ("mean", "second_moment")
        compiled = loops(bounds.device)
        if compiled is not None:
            batch = (part.contiguous().numpy() for part in (bins, bounds, within))
            compiled.add_bounds(*self.views(self._accumulated, self._count), *batch, power, counted)
        else:
            bounds = bounds / within**power if power else bounds
            add_to_bins(self._accumulated, bins, bounds.nan_to_num(0.0, posinf=math.inf))
            if counted:
                add_to_bins(self._count, bins, (~bounds.isnan()).to(torch.float64))
        self.age += 1
        if self.age == self.beta:
            self.recompute()

    def sum_up(self, over_all: Callable[[Tensor], Tensor]) -> None:
        """Take for what was accumulated the sums over all that accumulate a part of it."""
        sums = over_all(torch.stack([self._accumulated, self._count]))
        self._accumulated.copy_(sums[0])
        self._count.copy_(sums[1])

    @property
    def draws(self) -> int:
        """Number of draws since P was last recomputed, for the statistics that count them."""
        return int(self._count.sum())

    def state_dict(self) -> dict[str, Any]:
        """State as plain tensors, on the CPU, and ints."""
        return {
            **super().state_dict(),
            "accumulated": self._accumulated.clone().cpu(),
            "count": self._count.clone().cpu(),
            "averaged": self._averaged.clone().cpu(),
            "age": self.age,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of as many bins."""
        for name in ("accumulated", "count"):
            require((state[name] >= 0).all(), f"`{name}` has negative entries")
        super().load_state_dict(state)
        self._accumulated.copy_(state["accumulated"])
        self._count.copy_(state["count"])
        self._averaged = state["averaged"].to(self._sizes.device, copy=True)
        self.age = state["age"]

    def recompute(self) -> None:
        """Lines 13 to 15. A window in which every bound was 0 says nothing: P stays."""
        estimate, measured = self._estimate()
        base = {"previous": self.probabilities, "original": self._shares, "statistic": estimate}[self.smoothing]
        mixture = self.delta_p * base + (1 - self.delta_p) * estimate
        self.set(torch.where(measured, mixture / mixture.sum(), self.probabilities))
        self._accumulated.zero_()
        self._count.zero_()
        self.age = 0

    # No number is looked at, which on a GPU would have to be waited for.
    def _estimate(self) -> tuple[Tensor, Tensor]:
        """The new p̂, normalised, (k,); and whether anything was measured, () bool: if not, it is of no use."""
        if self.statistic in ("sum", "sum_over_q"):
            root = self._accumulated.sqrt()
            total = root.sum()
            return root / total, (total > 0) & (total < math.inf)
        # A mean over no draws is unknown, not zero: bins that were not drawn keep the share they have.
        mean = self._accumulated / self._count
        if self.smoothing == "statistic":
            self._averaged = mean = self._average(mean)
        measured = mean >= 0
        root = mean.sqrt()
        if self.statistic == "mean":
            root = root * self._sizes
        root = torch.where(measured, root, 0)
        total = root.sum()
        share = torch.where(measured, self.probabilities, 0).sum()
        estimate = torch.where(measured, root / total * share, self.probabilities)
        return estimate, (total > 0) & (total < math.inf)

    def _average(self, mean: Tensor) -> Tensor:
        """V ← δp V + (1 − δp) · mean, where there is a finite mean; the first one is taken as it is."""
        moved = torch.where(self._averaged < 0, mean, self.delta_p * self._averaged + (1 - self.delta_p) * mean)
        return torch.where(mean.isfinite(), moved, self._averaged)


def invert(ends: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Find the bins into whose parts of [0, 1) points fall. An empty part is never found.

    Args:
        ends: Where the parts end, one after the other, (k,) float64; the last in 1.
        points: In [0, 1), (B,) float64.

    Returns:
        Bins, (B,) int64, and where each point stands within its bin's part, again in [0, 1), (B,) float64.
    """
    bins = torch.searchsorted(ends, points, right=True)
    starts = torch.where(bins > 0, ends.index_select(0, (bins - 1).clamp_(min=0)), 0.0)
    return bins, (points - starts).div_(ends.index_select(0, bins) - starts).clamp_(max=LARGEST_UNIFORM)


def figures_of(p: Tensor) -> dict[str, float]:
    """What describes a distribution over bins, (k,), for the logger: entropy (nats), smallest and largest entry."""
    return {"entropy_p": float(torch.special.entr(p).sum()), "p_min": float(p.min()), "p_max": float(p.max())}


def add_to_bins(sums: Tensor, bins: Tensor, values: Tensor) -> None:
    """Add each value to the sum of its bin."""
    if sums.is_cuda:  # in a fixed order, by sorting, as `index_add_` there does not
        sums.index_put_((bins,), values, accumulate=True)
    else:
        sums.index_add_(0, bins, values)


def check_smoothing(statistic: BinStatistic, smoothing: Smoothing) -> None:
    """Raise a `ValueError` if a smoothing does not go with a statistic."""
    if smoothing == "statistic" and statistic not in ("mean", "second_moment"):
        raise ValueError(
            f"`smoothing='statistic'` averages what each window has measured, but {statistic!r} grows with the number "
            "of draws: use 'mean' or 'second_moment'."
        )
