"""Algorithm 1 of the thesis, line by line, in O(N) per batch and float64: what the fast code must agree with."""

import math
from typing import Any

from torch import Tensor

DEFAULTS = {"bin_statistic": "sum", "unseen": "first", "smoothing": "previous", "q_update": "drawn", "floor": 0.0}


class AlgorithmOne:
    """P and all of Q after each batch; line numbers are those of Algorithm 1 in chapter 4."""

    def __init__(self, tags: Tensor, beta: int, delta_p: float, delta_q: float, **options: Any) -> None:
        self.bin_statistic, self.unseen, self.smoothing, self.q_update, self.floor = {**DEFAULTS, **options}.values()
        self.members = [(tags == j).nonzero().flatten().tolist() for j in range(int(tags.max()) + 1)]
        self.size = len(tags)
        self.tags = tags.tolist()
        self.beta, self.delta_p, self.delta_q = beta, delta_p, delta_q
        k = len(self.members)
        self.p = [1 / k] * k  # line 2: P ~ U, Q ~ U
        self.q = [1 / len(self.members[j]) for j in self.tags]
        self.gc = [0.0] * k
        self.count = [0] * k
        self.statistic: list[float | None] = [None] * k  # under the roots, for smoothing="statistic"
        self.loss = [math.inf] * self.size  # line 2: l = infinity
        self.t = 0

    def batch(self, indices: list[int], losses: list[float], bounds: list[float]) -> None:
        q_of_draw = [self.within(i) for i in indices]
        for i, loss, bound, q in zip(indices, losses, bounds, q_of_draw, strict=True):
            j = self.tags[i]
            self.loss[i] = loss  # line 8
            divisor = {"sum": 1.0, "mean": 1.0, "sum_over_q": q, "second_moment": q * q}[self.bin_statistic]
            self.gc[j] += bound / divisor  # line 11
            self.count[j] += 1
        self.t += 1
        if self.t % self.beta == 0:  # lines 12 to 15
            self.recompute_p()
            self.gc, self.count = [0.0] * len(self.gc), [0] * len(self.gc)
        for members in self.members:  # lines 21 and 22
            self.recompute_q(members, set(indices))

    def within(self, i: int) -> float:
        """The probability of an instance within its bin, under what is drawn from: r over the bin's share of r."""
        j, uniform = self.tags[i], self.floor / self.size
        r = (1 - self.floor) * self.p[j] * self.q[i] + uniform
        return r / ((1 - self.floor) * self.p[j] + uniform * len(self.members[j]))

    def recompute_p(self) -> None:
        if self.smoothing == "statistic":
            self.recompute_p_from_smoothed_statistics()
            return
        k = range(len(self.members))
        if self.bin_statistic in ("sum", "sum_over_q"):
            root = [math.sqrt(gc) for gc in self.gc]
            share, kept = 1.0, [0.0 for _ in k]
        else:
            scale = [len(m) if self.bin_statistic == "mean" else 1 for m in self.members]
            root = [scale[j] * math.sqrt(self.gc[j] / self.count[j]) if self.count[j] else 0.0 for j in k]
            kept = [0.0 if self.count[j] else self.p[j] for j in k]
            share = 1 - sum(kept)
        if sum(root) == 0:
            return
        estimate = [share * root[j] / sum(root) + kept[j] for j in k]
        base = self.p if self.smoothing == "previous" else [len(m) / self.size for m in self.members]
        self.p = [self.delta_p * base[j] + (1 - self.delta_p) * estimate[j] for j in k]

    def recompute_p_from_smoothed_statistics(self) -> None:
        """Each bin's V is averaged over the windows that drew it; bins that none has drawn keep their p."""
        for j, members in enumerate(self.members):
            if self.count[j]:
                measured = self.gc[j] / self.count[j] * (len(members) ** 2 if self.bin_statistic == "mean" else 1)
                before = measured if self.statistic[j] is None else self.statistic[j]
                self.statistic[j] = self.delta_p * before + (1 - self.delta_p) * measured
        root = {j: math.sqrt(value) for j, value in enumerate(self.statistic) if value is not None}
        if sum(root.values()) > 0:
            share = 1 - sum(p for j, p in enumerate(self.p) if j not in root)
            scale = share / sum(root.values())
            self.p = [root[j] * scale if j in root else p for j, p in enumerate(self.p)]

    def recompute_q(self, members: list[int], drawn: set[int]) -> None:
        seen = [self.loss[i] for i in members if self.loss[i] < math.inf]
        unseen = len(members) - len(seen)
        if self.q_update == "all" and self.unseen == "first" and unseen:
            target = {i: 0.0 if self.loss[i] < math.inf else 1 / unseen for i in members}
        else:
            mean = math.fsum(seen) / len(seen) if seen else 1.0
            filled = {i: self.loss[i] if self.loss[i] < math.inf else mean for i in members}
            total = math.fsum(filled.values())
            if total == 0:
                return
            target = {i: filled[i] / total for i in members}
        for i in members if self.q_update == "all" else drawn.intersection(members):
            self.q[i] = self.delta_q * self.q[i] + (1 - self.delta_q) * target[i]
        weight = math.fsum(self.q[i] for i in members)
        for i in members:
            self.q[i] /= weight
