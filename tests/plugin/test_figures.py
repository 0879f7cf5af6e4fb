import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import Bins, ClosenessSampling, OnlineBatchSelection, RHOLoss
from lightning_as.core.draw import Draw
from lightning_as.plugin.figures import WINDOW, Figures, batch_sums, estimates, top_share
from tests.helpers.statistics import double

SIZE = 6
PROBABILITIES = double(0.4, 0.25, 0.15, 0.1, 0.06, 0.04)
LOSSES = double(2.0, 1.5, 0.1, 0.7, 0.02, 0.3)
GRADIENTS = torch.tensor([[1.0, -1], [0.5, 0.2], [0.1, 0], [0.3, 0.3], [0, 0.02], [0.2, 0]], dtype=torch.float64)


def look(losses: Tensor, bounds: Tensor) -> Tensor:
    return torch.stack([losses, bounds, *[torch.full_like(losses, torch.nan)] * 4])


def of(probabilities: Tensor, losses: Tensor, bounds: Tensor) -> dict[str, float]:
    """The estimates of one batch."""
    return estimates(batch_sums([(probabilities, losses, bounds)], SIZE)[:, 0])


def test_the_estimates_are_those_of_the_data_by_enumeration():
    """Of the expectation of each sum over all draws of one instance, which is what many draws come to."""
    bounds = GRADIENTS.square().sum(1)
    each = [batch_sums([(PROBABILITIES[[i]], LOSSES[[i]], bounds[[i]])], SIZE)[:, 0] for i in range(SIZE)]
    found = estimates(torch.stack(each, 1) @ PROBABILITIES)
    torch.testing.assert_close(found["ess"], 1 / float(PROBABILITIES.square().sum()) / SIZE)
    torch.testing.assert_close(found["loss"], float(LOSSES.mean()))
    torch.testing.assert_close(found["gain"], float((PROBABILITIES * bounds).sum() / bounds.mean()))
    weighted = GRADIENTS / (SIZE * PROBABILITIES)[:, None]  # of which the mean over draws is the gradient of the data
    second = (PROBABILITIES[:, None] * weighted.square()).sum()
    torch.testing.assert_close(found["variance_ratio"], float(second / GRADIENTS.square().sum(1).mean()))


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ([0.9, 1.2, 1.5], True),
        ([0.5] * 20, False),  # much of the data was not drawn
        ([0.5] * 100 + [90.0], False),  # or too often for so few draws
        ([0.5] * 100 + [50.0], True),
        ([0.5] * 1000 + [500.0], False),  # one draw counts for half of the data
    ],
)
def test_draws_that_do_not_stand_for_the_data_tell_its_spread_alone(weights: list[float], told: bool):
    probabilities = 1 / (SIZE * double(*weights))
    found = of(probabilities, torch.ones_like(probabilities), torch.ones_like(probabilities))
    assert list(found) == ["ess", "loss", "gain", "variance_ratio"]
    assert [math.isfinite(number) for number in found.values()] == [True, told, told, told]


def test_the_summary_says_so_if_they_mostly_do_not():
    strategy: Any = OnlineBatchSelection()
    strategy.keep_record(True)
    strategy.start(Bins([0] * SIZE))
    figures, drawn = Figures(strategy), torch.tensor([0, 0, 1])
    for probabilities in (double(1, 1, 1) / SIZE, *[double(0.9, 0.9, 0.09)] * 150):
        figures.add(Draw(drawn, torch.zeros_like(drawn), probabilities), look(double(1, 2, 3), double(1, 2, 3)))
        strategy.record.add(drawn, look(double(1, 2, 3), double(1, 2, 3)))
        figures.log()
    resumed = Figures(strategy)
    resumed.load_state_dict(figures.state_dict())
    for one in (figures, resumed):
        assert "so little of the data that `adaptive/loss`, `gain` and `variance_ratio`" in str(one.summary())
    resumed.forget()
    assert "so little" not in str(resumed.summary())


def test_uniform_draws_have_no_gain_and_what_is_not_known_is_left_out():
    uniform = torch.full((4,), 1 / SIZE, dtype=torch.float64)
    found = of(uniform, double(1, 2, torch.nan, torch.inf), double(1, 0.5, torch.nan, 0.25))
    torch.testing.assert_close(found, {"ess": 1.0, "loss": 1.5, "gain": 1.0, "variance_ratio": 1.0})
    unknown = torch.full((4,), torch.nan, dtype=torch.float64)
    assert of(uniform, unknown, unknown) == {"ess": 1.0}


def test_they_are_of_the_last_batches():
    strategy: Any = ClosenessSampling()
    figures = Figures(strategy)
    assert figures.log() == {}
    assert figures.summary() is None
    strategy.keep_record(True)
    strategy.start(Bins([0] * SIZE))
    drawn = torch.tensor([0, 0, 3])
    for losses in [double(9, 9, 9), *[double(1, 2, 3)] * WINDOW]:
        draw = Draw(drawn, torch.zeros(3, dtype=torch.int64), PROBABILITIES[drawn])
        figures.add(draw, look(losses, losses))
        strategy.record.add(drawn, look(losses, losses))
    present = figures.log()
    torch.testing.assert_close(present["ess"], 1 / float(PROBABILITIES[drawn].mean()) / SIZE)
    weights = 1 / (SIZE * PROBABILITIES[drawn])
    torch.testing.assert_close(present["loss"], float((weights * double(1, 2, 3)).mean()))
    summary = figures.summary()
    assert summary is not None
    resumed = Figures(strategy)
    resumed.load_state_dict(figures.state_dict())
    assert resumed.log() == present
    for again in (figures, resumed):  # a batch of another size
        again.add(Draw(drawn[:1], drawn[:1], PROBABILITIES[drawn[:1]]), look(double(7), double(7)))
    assert resumed.log() == figures.log() != present
    assert (
        "ClosenessSampling drew 153 times from 6 examples, in 51 batches: the most drawn example 102 times" in summary
    )
    assert "tenth 67% of the draws, and 66.7% of the examples never" in summary
    assert f"had {present['gain']:.3g} times the squared gradient" in summary


def test_a_selector_has_the_spread_of_its_candidates_alone():
    strategy = RHOLoss(torch.zeros(SIZE))
    strategy.start(Bins([0] * SIZE))
    figures = Figures(strategy)
    uniform = torch.full((3,), 1 / SIZE, dtype=torch.float64)
    figures.add(Draw(torch.arange(3), torch.zeros(3, dtype=torch.int64), uniform), look(uniform, uniform))
    torch.testing.assert_close(figures.log(), {"ess": 1.0})


def test_the_share_of_the_most_drawn_tenth_is_rounded_up():
    assert top_share(torch.tensor([1, 2, 3, 4])) == 0.4
    assert top_share(torch.tensor([0] * 10 + [5, 15])) == 1.0
    assert top_share(torch.zeros(3)) == 0.0
