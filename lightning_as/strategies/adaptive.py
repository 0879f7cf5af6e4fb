"""Adaptive sampling: Algorithm 1 of the thesis.

A batch is drawn from two levels: a bin j with probability P_j, then an instance i of it with probability
Q_i^j, both with replacement and from one fixed law for the whole batch. P follows the accumulated bounds of
the gradient norms, Q follows the last known losses. The method is unweighted: it minimises the training loss
re-weighted towards what is hard, not the plain mean.

The defaults are the thesis's settings and a floor, r = (1 − ε) p q + ε/N with ε = 0.1, without which P may collapse for
good (`docs/evidence.md`, question 3, which also has the rule by which it was chosen). Three presets:

* ``thesis``, without the floor: P from Σ Ĝ, smoothed with the P before.
* ``annex``, without the floor: P from Σ Ĝ/q, as the English paper has it.
* ``robust``: the floor, and P from the mean of Ĝ/q², which is unbiased for the Σ ‖∇L‖²/q that P is the root of,
  averaged over windows before the root is taken.

With a floor an unbiased weight is at most 1/ε, and a bin or an instance that was given up once is drawn again and
recovers.

Source: Avalos, master's thesis (2021), chapter 4, Algorithm 1, eqs. (67), (79), (80); English paper as its
annex D. Where the text is ambiguous: t counts batches, P is first recomputed after β whole batches, gc[j]
takes the sum of Ĝ, "∝" normalises before smoothing, and Q moves where it was drawn. The last is, beside the floor,
the one departure from the letter, in which all of Q may move: that reading (``q_update="all"``) learns far less
(`benchmarks/convergence.py`).

Cost per step: no extra forward pass; O(batch · log N) for the draw and the update, about half a millisecond on a CPU
(`benchmarks/sum_tree.py`). With ``q_update="all"`` also O(N) once every 280 batches, when a decayed factor is written
into the table.

Verified: P and all of Q against a line-by-line transcription of Algorithm 1; training on MNIST, where the loss falls
orders below uniform sampling without weights, and as uniform sampling with them. The thesis's own code is not public,
so that which of the readings its figures come from could not be verified. Annex D divides the whole sum by q at each
draw, which overflows within a window; ``sum_over_q`` divides each Ĝ. ``robust`` is this package's: its defaults are
judgement, not tuned.

When to use it: most instances are soon easy, labels are clean, and a low training loss matters.

When not: noisy labels are drawn again and again; a module whose loss must stay the uniform mean.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_as.core.bin_distribution import BinDistribution, BinStatistic, Smoothing, check_smoothing
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw, to_device
from lightning_as.core.smoothed_where_drawn import SmoothedWhereDrawn
from lightning_as.strategies.base import Strategy
from thesis.smoothed_everywhere import SmoothedEverywhere, Unseen

Score = Literal["loss", "gradient"]
QUpdate = Literal["drawn", "all"]


class AdaptiveSampling(Strategy):
    """Two-level sampling: P over bins by gradients, Q inside each by losses; the thesis.

    Args:
        beta: β, batches between two recomputations of P, at least 1 (line 12). Default: 10.
        delta_p: δp in [0, 1), how much P is smoothed (line 14). Default: 0.9.
        delta_q: δq in [0, 1), the share of the old Q that each batch leaves (line 22). Default: 0.1.
        bin_statistic: What P is the root of (line 13, eq. 67), from the bounds Ĝ of the instances drawn.
            ``"sum"``: Σ Ĝ, the thesis. ``"sum_over_q"``: Σ Ĝ/q, annex D. ``"mean"``: |c_j|² · mean Ĝ, Gopal.
            ``"second_moment"``: mean Ĝ/q², the unbiased estimate of Σ Ĝ/q. With a `floor` q is the law inside the bin
            that was drawn from, with the floor in it. Default: ``"sum"``.
        score: What Q follows. ``"loss"``: the last known loss (eq. 79). ``"gradient"``: the root of the last
            known bound, that is the gradient norm (eqs. 78 and 80). Default: ``"loss"``.
        q_update: Which instances lines 21 and 22 move after a batch; the thesis does not say. ``"drawn"``: those of
            the batch. ``"all"``: every instance of every bin. Default: ``"drawn"``.
        unseen: What instances never drawn get of Q with ``q_update="all"``. ``"first"``: everything, the limit of
            the thesis's initial l = ∞. ``"mean"``: the mean score of their bin. Default: ``"first"``.
            With ``q_update="drawn"`` they keep what they have until they are drawn.
        smoothing: What δp mixes the new P with. ``"previous"``: the P before (line 14). ``"original"``: the
            bins' shares of the data, as Gopal. ``"statistic"``: not P but the `bin_statistic`, with its value before;
            a bin keeps it while it is not drawn. Only for ``"mean"`` and ``"second_moment"``. Default: ``"previous"``.
        floor: ε in [0, 1): the batch is drawn from (1 − ε) · p · q + ε/N, so that no instance falls below ε/N
            whatever P and Q do; the thesis has none, 0. Default: 0.1.

    Raises:
        TypeError: If `beta` is not an integer.
        ValueError: If an option is out of its range, or `smoothing` does not go with `bin_statistic`.
    """

    reads = frozenset({"losses", "bounds"})

    def __init__(
        self,
        beta: int = 10,
        delta_p: float = 0.9,
        delta_q: float = 0.1,
        bin_statistic: BinStatistic = "sum",
        score: Score = "loss",
        q_update: QUpdate = "drawn",
        unseen: Unseen = "first",
        smoothing: Smoothing = "previous",
        floor: float = 0.1,
    ) -> None:
        if not isinstance(beta, int) or isinstance(beta, bool):
            raise TypeError(f"`beta` must be an integer number of batches, got {beta!r}.")
        if beta < 1:
            raise ValueError(f"`beta` must be at least 1 batch, got {beta}.")
        for name, share in (("delta_p", delta_p), ("delta_q", delta_q), ("floor", floor)):
            if not isinstance(share, (int, float)):
                raise TypeError(f"`{name}` must be a number in [0, 1), got {share!r}.")
            if not 0 <= share < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {share}.")
        for name, choice, value in (
            ("bin_statistic", BinStatistic, bin_statistic),
            ("score", Score, score),
            ("q_update", QUpdate, q_update),
            ("unseen", Unseen, unseen),
            ("smoothing", Smoothing, smoothing),
        ):
            if value not in get_args(choice):
                raise ValueError(f"`{name}` must be one of {', '.join(get_args(choice))}; got {value!r}.")
        check_smoothing(bin_statistic, smoothing)
        self.beta = beta
        self.delta_p = delta_p
        self.delta_q = delta_q
        self.bin_statistic: BinStatistic = bin_statistic
        self.score: Score = score
        self.samples_by_loss = score == "loss"
        self.q_update: QUpdate = q_update
        self.unseen: Unseen = unseen
        self.smoothing: Smoothing = smoothing
        self.floor = floor
        self.any_device = q_update == "drawn"

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self._sizes = torch.tensor(bins.sizes, dtype=torch.float64, device=bins.device)
        self._over_bins = BinDistribution(
            bins.sizes, self.beta, self.delta_p, self.bin_statistic, self.smoothing, device=bins.device
        )
        if self.q_update == "drawn":
            self._inside = SmoothedWhereDrawn(bins, self.delta_q)
        else:
            self._inside = SmoothedEverywhere(bins, self.delta_q, self.unseen)

    @property
    def bin_probabilities(self) -> Tensor:
        """P, (k,) float64."""
        return self._over_bins.probabilities

    def instance_probabilities(self) -> Tensor:
        """Q: the probability of each instance within its bin, in the order of the data set, (N,) float64. O(N)."""
        return self._inside.probabilities()

    def probabilities(self) -> Tensor:
        return self._joint(self.bin_probabilities[self.bins.tags], self.instance_probabilities())

    @torch.inference_mode()  # which spares a fifth of the time, as in `update`
    def draw(self, size: int, generator: torch.Generator) -> Draw:
        rows = 1 + self._inside.uniforms + (self.floor > 0)
        uniforms = to_device(torch.rand(rows, size, dtype=torch.float64, generator=generator), self.bins.device)
        own = uniforms[: 1 + self._inside.uniforms]
        if self._inside.compiled:
            draw = self._inside.draw_with_bins(self.bin_probabilities, self._over_bins.cumulative, own)
        else:
            bins = self._over_bins.draw(own[0])
            indices, q = self._inside.draw(bins, own[1:])
            draw = Draw(indices, bins, self.bin_probabilities.index_select(0, bins).mul_(q), within=q)
        return draw if self.floor == 0 else self._mix_in_uniform(draw, uniforms[-1])

    def _mix_in_uniform(self, draw: Draw, uniforms: Tensor) -> Draw:
        """A draw from (1 − ε) p q + ε/N, made of one from p q and a uniform for each instance."""
        if self._inside.compiled and self._inside.mix_in_uniform(draw, self.bin_probabilities, self.floor, uniforms):
            return draw
        # A uniform below ε is, as a share of it, uniform again. Rounding may have given N.
        anywhere = (uniforms / self.floor * len(self.bins)).long().clamp_(max=len(self.bins) - 1)
        indices = torch.where(uniforms < self.floor, anywhere, draw.indices)
        bins = self.bins.of(indices)
        p = self.bin_probabilities[bins]
        joint = self._joint(p, self._inside.probability(indices, bins))
        return Draw(indices, bins, joint, within=joint / self._joint_of_bins(p, bins))

    def learn(self, draw: Draw, losses: Tensor, bounds: Tensor) -> None:
        assert draw.within is not None, "a draw from here has it"
        self._over_bins.update(draw.bins, bounds, draw.within)
        self._inside.update(draw.indices, draw.bins, losses if self.score == "loss" else bounds.sqrt())

    def metrics(self) -> dict[str, float]:
        """Of P: entropy (nats), smallest and largest entry, age (batches); share of instances seen."""
        p = self.bin_probabilities
        return {
            "entropy_p": float(torch.special.entr(p).sum()),
            "p_min": float(p.min()),
            "p_max": float(p.max()),
            "seen": self._inside.share_seen,
            "age_p": float(self._over_bins.age),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "q_update": self.q_update,
            "over_bins": self._over_bins.state_dict(),
            "inside": self._inside.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["q_update"] != self.q_update:
            raise ValueError(
                f"The state to load is of `q_update={state['q_update']!r}`, but here it is {self.q_update!r}: use the "
                "one it was saved with."
            )
        self._over_bins.load_state_dict(state["over_bins"])
        self._inside.load_state_dict(state["inside"])

    def _joint(self, p: Tensor, q: Tensor) -> Tensor:
        """R = (1 − ε) p q + ε/N of instances with the given p and q."""
        return (p * q).mul_(1 - self.floor).add_(self.floor / len(self.bins))

    def _joint_of_bins(self, p: Tensor, bins: Tensor) -> Tensor:
        """The mass of r in the given bins, which have the given p."""
        return (1 - self.floor) * p + self.floor * self._sizes[bins] / len(self.bins)
