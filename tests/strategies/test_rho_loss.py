from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import Bins, Draw, RHOLoss
from lightning_as.strategies import Scores

N, SIZE = 60, 8
TAGS = torch.arange(N) % 3
IRREDUCIBLE = torch.rand(N, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def started(**options: Any) -> RHOLoss:
    strategy = RHOLoss(**{"irreducible_losses": IRREDUCIBLE, **options})
    strategy.start(Bins(TAGS))
    return strategy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def choose(strategy: RHOLoss, indices: Tensor, losses: Tensor, size: int = SIZE) -> list[int]:
    draw = Draw(indices, TAGS[indices], torch.full((len(indices),), 1 / N).double())
    selection = strategy.select(draw, Scores(losses=losses), size, seeded())
    assert selection.weights is None
    assert selection.probabilities is None
    return selection.positions.tolist()


def test_the_largest_reducible_losses_are_chosen():
    strategy, generator = started(), seeded(1)
    for _ in range(200):
        indices = torch.randint(N, (80,), generator=generator)
        losses = torch.rand(80, dtype=torch.float64, generator=generator).mul(4).round()  # with ties and zeros
        reducible = [loss - float(IRREDUCIBLE[at]) for at, loss in zip(indices.tolist(), losses.tolist(), strict=True)]
        expected = sorted(range(80), key=lambda at: -reducible[at])[:SIZE]
        assert choose(strategy, indices, losses) == expected


def test_a_choice_computed_by_hand():
    """Neither 0, which is learned, nor 2, which is noise, but 1, which is yet to learn."""
    strategy = RHOLoss([0.0, 0.5, 4.0, 0.9], keep=0.25)
    strategy.start(Bins([0] * 4))
    losses = torch.tensor([0.1, 2.0, 4.2, 1.1]).double()
    draw = Draw(torch.arange(4), torch.zeros(4).long(), torch.full((4,), 0.25).double())
    assert strategy.select(draw, Scores(losses=losses), 1, seeded()).positions.tolist() == [1]


def test_candidates_are_passes_over_the_data_of_one_over_keep_batches():
    strategy, generator = started(keep=0.1), seeded()
    draws = [strategy.draw(6, generator) for _ in range(3)]
    assert [draw.indices.sort().values.tolist() for draw in draws] == [list(range(N))] * 3
    assert started().factor == 10
    assert strategy.probabilities().tolist() == [1 / N] * N


def test_losses_can_come_from_a_file(tmp_path: Path):
    path = str(tmp_path / "losses.pt")
    torch.save(IRREDUCIBLE.float(), path)
    assert torch.equal(RHOLoss(path).irreducible_losses, IRREDUCIBLE.float().double())
    torch.save({"losses": IRREDUCIBLE}, path)
    with pytest.raises(ValueError, match=r"has a dict, not a tensor \(N,\): make them with `lightning-as irreducible"):
        RHOLoss(path)
    Path(path).write_text("no file of torch's")
    for strange in (path, str(tmp_path / "none.pt")):
        with pytest.raises(
            ValueError,
            match=r"cannot be read from .* no file of `torch.save`: make them with `lightning-as irreducible-loss",
        ):
            RHOLoss(strange)


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_equal_or_strange_losses_still_give_a_batch(value: float):
    strategy, indices = started(), torch.arange(20)
    positions = choose(strategy, indices, torch.full((20,), value).double())
    assert positions == IRREDUCIBLE[:20].argsort()[:SIZE].tolist()
    losses = torch.ones(20).double()
    losses[3] = math.nan  # counts as the mean
    assert choose(strategy, indices, losses) == positions
    assert strategy.skipped == (1 if math.isfinite(value) else 21)


def test_a_restored_state_goes_on():
    strategy, generator = started(), seeded()
    strategy.draw(SIZE // 2, generator)
    file = io.BytesIO()
    torch.save([strategy.state_dict(), generator.get_state()], file)
    file.seek(0)
    state, random = torch.load(file, weights_only=True)
    expected = [strategy.draw(SIZE // 2, generator).indices.tolist() for _ in range(5)]
    other, generator = started(), seeded(3)
    other.load_state_dict(state)
    generator.set_state(random)
    assert [other.draw(SIZE // 2, generator).indices.tolist() for _ in range(5)] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"irreducible_losses": None}, "`irreducible_losses` is missing: make them with `lightning-as irreducible-los"),
        ({"irreducible_losses": torch.ones(3, 2)}, r"one finite number per instance, \(N,\), got the shape \(3, 2\)"),
        ({"irreducible_losses": [0.0, math.nan]}, "with 1 that are not finite"),
        ({"keep": 0.3}, "`keep` must be 1 over a whole number .* got 0.3"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        RHOLoss(**{"irreducible_losses": IRREDUCIBLE, **options})


def test_losses_of_other_data_are_refused():
    with pytest.raises(ValueError, match="`irreducible_losses` are of 60 instances, but the data set has 61"):
        started().start(Bins(torch.zeros(61).long()))
