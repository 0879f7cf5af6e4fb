"""Plays the callback's part for a strategy, without a model: its scores are random."""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from lightning_as import Bins, Draw
from lightning_as.strategies import BatchSelector, Scores, Strategy
from tests.helpers.statistics import saved, seeded

CLASSES, FEATURES, INPUTS = 4, 6, 9
EPOCH = 6  # batches


class Driver:
    """A training with random losses; the calls are those of the callback, in its order.

    `ahead` batches are drawn before the oldest of them is trained on, as loader workers do; a share `odd_share` of the
    losses, bounds and logits is `odd`, such as NaN.
    """

    def __init__(self, strategy: Strategy, bins: Bins, seed=0, size=16, epochs=4, ahead=0, odd=0.0, odd_share=0.0):
        self.strategy, self.size, self.ahead, self.odd, self.odd_share = strategy, size, ahead, odd, odd_share
        self._draws, self._chance = seeded(seed), seeded(seed + 1)
        self._inputs = torch.randn(len(bins), INPUTS, generator=seeded(7))
        self._pending: deque[Draw] = deque()
        self._position = 0
        self.drawn, self.trained = list[Draw](), list[Draw]()
        strategy.start(bins)
        strategy.plan(epochs * EPOCH, EPOCH)

    def run(self, steps: int) -> "Driver":
        for _ in range(steps):
            self._step()
        return self

    def batch(self) -> Draw:
        """A batch as it would be trained on now, that is not trained on."""
        return self._select(self.strategy.draw(self.size, self._draws))

    def saved(self) -> dict[str, Any]:
        return saved(
            {
                "strategy": self.strategy.state_dict(),
                "skipped": self.strategy.skipped,
                "progress": self.strategy.progress.state_dict(),
                "draws": self._draws.get_state(),
                "chance": self._chance.get_state(),
                "pending": [draw._asdict() for draw in self._pending],
                "position": self._position,
            }
        )

    def load(self, state: dict[str, Any]) -> "Driver":
        """Go on from a state: what was drawn ahead is not drawn again."""
        self.strategy.load_state_dict(state["strategy"])
        self.strategy.skipped = state["skipped"]
        self.strategy.progress.load_state_dict(state["progress"])
        self._draws.set_state(state["draws"])
        self._chance.set_state(state["chance"])
        self._pending = deque(Draw(**fields) for fields in state["pending"])
        self._position = state["position"]
        self._refresh()
        return self

    def _step(self) -> None:
        if self._position == 0 and not self._pending:
            self._refresh()
            self.strategy.start_epoch(self._draws)
        while len(self._pending) <= self.ahead and self._position + len(self._pending) < EPOCH:
            self.drawn.append(self.strategy.draw(self.size, self._draws))
            self.strategy.progress.step()
            self._pending.append(self.drawn[-1])
        draw = self._select(self._pending.popleft())
        self.trained.append(draw)
        losses, bounds = self._numbers(len(draw.indices)), self._numbers(len(draw.indices))
        if not {"bounds", "linear_bounds"} & self.strategy.reads:
            bounds.zero_()
        self.strategy.update(draw, losses, bounds)
        self._refresh()
        self._position = (self._position + 1) % EPOCH
        if self._position == 0:
            self.strategy.validated({"val/loss": self._chances(1).item(), "val/accuracy": self._chances(1).item()})

    def _select(self, draw: Draw) -> Draw:
        if not isinstance(self.strategy, BatchSelector) or len(draw.indices) <= self.size:
            return draw
        selection = self.strategy.select(draw, self._scores(draw.indices), self.size, self._draws)
        assert len(selection.positions) == self.size
        given = {"weights": selection.weights, "probabilities": selection.probabilities}
        own = {name: values for name, values in given.items() if values is not None}
        return draw.select(selection.positions)._replace(**own)

    def _refresh(self) -> None:
        wanted = self.strategy.wanted()
        if wanted is not None and len(wanted):
            self.strategy.refresh(wanted, self._scores(wanted))

    def _scores(self, indices: Tensor) -> Scores:
        """What the strategy reads, and no more."""
        reads, count = self.strategy.reads, len(indices)
        return Scores(
            self._numbers(count) if "losses" in reads else None,
            self._numbers(count) if "bounds" in reads else None,
            self._numbers(count * CLASSES).view(count, CLASSES) if "logits" in reads else None,
            torch.randn(count, FEATURES, generator=self._chance) if "features" in reads else None,
            self._inputs[indices] if "inputs" in reads else None,
            self._numbers(count) if "entropies" in reads else None,
        )

    def _numbers(self, count: int) -> Tensor:
        """Losses or bounds: of many orders of magnitude, some of them 0, and some odd."""
        numbers = self._chances(count).pow(6) * 2
        numbers[self._chances(count) < 0.1] = 0.0
        numbers[self._chances(count) < self.odd_share] = self.odd
        return numbers

    def _chances(self, count: int) -> Tensor:
        return torch.rand(count, dtype=torch.float64, generator=self._chance)
