import math
from itertools import product

import pytest

from tests.helpers.synthetic import Rows, evidence, row, runs_of, training
from thesis.evidence import late_cost, longer
from thesis.grid import PARTS, REMEDIES, WEIGHTS
from thesis.printed import BATCH_SIZES, OPTIMIZERS


def test_late_costs_are_geometric_means_over_three_epochs():
    run, zero, infinite = (
        runs_of(training(costs))[0] for costs in ([8.0, 1e-2, 1e-4, 1e-3], [1.0, 0.0, 1.0], [1.0, math.inf])
    )
    assert late_cost(run, 4) == pytest.approx(1e-3)
    assert late_cost(run, 1) == pytest.approx(8.0)  # there is one epoch: what is before the first is none
    assert (late_cost(zero, 3), late_cost(infinite, 2)) == (0, math.inf)


@pytest.mark.parametrize(("lengths", "chosen"), [((3, 5, 5), [1, 2]), ((15, 16, 50), [1, 2]), ((), [])])
def test_long_runs_are_those_beyond_what_is_compared_or_the_longest(lengths: tuple[int, ...], chosen: list[int]):
    rows = [r for seed, epochs in enumerate(lengths) for r in training([1.0] * epochs, seed=seed)]
    assert [run.cell.seed for run in longer(runs_of(rows) if rows else [])] == chosen


def test_arms_are_compared_at_the_last_epoch_that_all_have():
    rows = training([2e-2] * 5, arm="uniform") + training([2e-3] * 3, arm="AS_weighted")
    rows += training([2e-4] * 3 + [1e-9], arm="AS")
    rows[-3]["p"] = ";".join(["0.001", "0.199", *["0.1"] * 8])  # epoch 2 of 4
    rows[-1]["p"] = ";".join(["0.0001", "0.1999", *["0.1"] * 8])  # epoch 4, beyond
    rows += [row(seed=100), row(seed=1, delta_p=0.9, delta_q=0.1), row(seed=2, data="noisy_10")]  # of other questions
    found = evidence(rows)
    weights = found.compare(WEIGHTS, "adadelta", 256)
    assert [(r.arm, r.epoch, r.cost.runs) for r in weights] == [("uniform", 3, 1), ("AS", 3, 1), ("AS_weighted", 3, 1)]
    assert [r.ratio.value for r in weights] == pytest.approx([1.0, 0.01, 0.1])
    assert weights[1].cost.value == pytest.approx(2e-4)
    assert weights[1].accuracy.value == pytest.approx(99.0)
    assert weights[1].smallest_p.value == pytest.approx(0.001)
    assert [r.arm for r in found.compare(PARTS, "adadelta", 256)] == ["uniform", "AS"]
    assert found.compare(PARTS, "adam", 256) == []
    diverged = evidence(training([1e-2] * 3, arm="uniform") + training([1e-3, math.nan, math.nan]))
    (of_as,) = diverged.compare(("AS",), "adadelta", 256)
    assert (of_as.cost.value, of_as.ratio.value, of_as.ratio.note) == (math.inf, None, "a cost is not finite")


def remedies(costs: dict[str, float], seed: int = 100) -> Rows:
    """All six settings of the given arms, whose cost at every epoch is the given one."""
    return [
        r
        for arm, optimizer, size in product(costs, OPTIMIZERS, BATCH_SIZES)
        for r in training([costs[arm]] * 2, arm=arm, optimizer=optimizer, batch_size=size, seed=seed)
    ]


def test_the_default_is_the_best_that_is_nowhere_much_worse_on_the_seeds_that_choose_it():
    rows = remedies({"AS": 1e-3, "AS_floor": 5e-4, "AS_statistic": 1e-4, "AS_robust": 8e-4})
    for r in rows:  # the best on the whole costs ten times as much in one setting
        if (r["arm"], r["optimizer"], r["batch_size"]) == ("AS_statistic", "adam", 64):
            r["training_cost_mean"] = 1e-2
    found = {r.arm: r for r in evidence(rows).defaults}
    assert list(found) == list(REMEDIES)
    assert [r.arm for r in found.values() if r.chosen] == ["AS_floor"]
    mean = math.exp((5 * math.log(0.1) + math.log(10)) / 6)
    assert found["AS"].mean_ratio == pytest.approx(1.0)
    assert found["AS_statistic"][1:5] == (6, pytest.approx(mean), pytest.approx(10.0), "Adam 64")
    assert found["AS_original"][1:3] == (0, None)
    without = [r for r in rows if (r["arm"], r["batch_size"]) != ("AS_floor", 64)]
    assert [r.arm for r in evidence(without).defaults if r.chosen] == ["AS_robust"]
    assert not any(r.chosen or r.settings for r in evidence(remedies({"AS": 1e-3, "AS_floor": 1e-4}, seed=99)).defaults)


def test_a_collapse_is_for_good_or_not():
    def long(smallest: dict[int, float], arm: str) -> Rows:
        rows = training([1.0] * 20, arm=arm)
        return [r | {"p": f"{smallest[e]}" + 9 * ";0.1"} if e in smallest else r for e, r in enumerate(rows)]

    rows = long({4: 5e-4, 18: 1e-3, 19: 9e-4, 20: 1e-9}, "AS") + long({4: 5e-4, 18: 1e-5}, "AS_second_moment")
    rows += long(dict.fromkeys(range(21), 1e-6), "AS_original") + training([1.0] * 15, arm="AS_robust")
    found = [(r.arm, r.smallest_p, r.collapsed_epochs, r.collapsed_since) for r in evidence(rows).collapses]
    assert found == [("AS", 1e-9, 3, 19), ("AS_second_moment", 1e-5, 2, None), ("AS_original", 1e-6, 21, 0)]
