import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_as import RHOLoss
from lightning_as.strategies import Scores
from tests.helpers.statistics import seeded
from tests.helpers.strategies import as_drawn, random_losses, started

N, SIZE = 60, 8
IRREDUCIBLE = torch.rand(N, dtype=torch.float64, generator=seeded(7))


def choose(strategy: RHOLoss, indices: Tensor, losses: Tensor) -> list[int]:
    selection = strategy.select(as_drawn(strategy, indices), Scores(losses=losses), SIZE, seeded())
    assert selection.weights is selection.probabilities is None
    return selection.positions.tolist()


def test_the_largest_reducible_losses_are_chosen():
    strategy, generator = started(RHOLoss(IRREDUCIBLE), N), seeded(1)
    for step in range(50):
        indices, losses = strategy.draw(6, generator).indices, random_losses(N, generator, step)
        assert indices.sort().values.tolist() == list(range(N))  # a pass of 1/keep batches
        reducible = [loss - float(IRREDUCIBLE[at]) for at, loss in zip(indices.tolist(), losses.tolist(), strict=True)]
        assert choose(strategy, indices, losses) == sorted(range(N), key=lambda at: -reducible[at])[:SIZE]


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_equal_or_strange_losses_still_give_a_batch(value: float):
    strategy, indices = started(RHOLoss(IRREDUCIBLE), N), torch.arange(20)
    positions = choose(strategy, indices, torch.full((20,), value).double())
    assert positions == IRREDUCIBLE[:20].argsort()[:SIZE].tolist()
    losses = torch.ones(20).double()
    losses[3] = math.nan  # counts as the mean
    assert choose(strategy, indices, losses) == positions
    assert strategy.skipped == (1 if math.isfinite(value) else 21)


def test_losses_can_come_from_a_file(tmp_path: Path):
    path = str(tmp_path / "losses.pt")
    torch.save(IRREDUCIBLE.float(), path)
    assert torch.equal(RHOLoss(path).irreducible_losses, IRREDUCIBLE.float().double())
    with pytest.raises(ValueError, match="`irreducible_losses` are of 60 instances, but the data set has 61: make"):
        started(RHOLoss(path), 61)
    torch.save({"losses": IRREDUCIBLE}, path)
    with pytest.raises(ValueError, match=r"has a dict, not a tensor \(N,\): make them with `lightning-as irreducible"):
        RHOLoss(path)
    Path(path).write_text("no file of torch's")
    for strange in (path, str(tmp_path / "none.pt")):
        with pytest.raises(ValueError, match=r"cannot be read from .* no file of `torch.save`: make them with"):
            RHOLoss(strange)
