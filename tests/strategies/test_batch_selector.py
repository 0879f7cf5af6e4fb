import math

from lightning_as.strategies import Scores
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import as_drawn, started
from tests.strategies.test_base import Last


def test_an_unknown_score_of_a_candidate_counts_as_the_mean_of_the_others():
    strategy = started(Last(), 5)
    losses = double(3.0, math.nan, 1.0, math.inf, 4.0)  # of mean 8/3
    selection = strategy.select(as_drawn(strategy, [0] * 5), Scores(losses=losses), 4, seeded())
    assert [sorted(part.tolist()) for part in selection.positions.split([1, 2, 1])] == [[2], [1, 3], [0]]
    assert strategy.skipped == 2
    assert strategy._known(losses[[1, 3]]).tolist() == [0, 0]
    assert strategy.probabilities().tolist() == [0.2] * 5
