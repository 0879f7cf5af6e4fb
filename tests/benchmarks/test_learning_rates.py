import statistics
from collections.abc import Mapping

import pytest

from benchmarks.budgets.learning_rates import Run, best, entries, factors, figures, key, markdown, runs, scaled
from benchmarks.budgets.tasks import TASKS

MNIST = TASKS["mnist"]


def rival(means: Mapping[float, float], seeds: int = 2) -> dict[float, dict[int, Run]]:
    """Runs that are better by a point from seed to seed."""
    return {factor: {seed: Run(mean + seed, 1.0) for seed in range(seeds)} for factor, mean in means.items()}


PEAK, RISING, FALLING = ({0.5: a, 1.0: 92.0, 2.0: b} for a, b in ((90.0, 91.0), (91.0, 93.0), (93.0, 91.0)))


def test_the_range_is_wider_at_an_end_that_is_best_for_any_rival_once_the_middle_is_there():
    assert factors({"uniform": rival(PEAK), "closeness": rival(PEAK)}, [0, 1]) == [0.5, 1, 2]
    assert factors({"uniform": rival(PEAK), "closeness": rival(RISING)}, [0, 1]) == [0.5, 1, 2, 4]
    assert factors({"uniform": rival(FALLING), "closeness": rival(RISING)}, [0, 1]) == [0.5, 1, 2, 0.25, 4]
    assert factors({"uniform": rival(PEAK), "closeness": rival(RISING, 1)}, [0, 1]) == [0.5, 1, 2]  # not all there
    assert factors({"uniform": rival(RISING), "closeness": {}}, [0, 1]) == [0.5, 1, 2]
    beyond = {"uniform": rival(PEAK), "closeness": rival({**RISING, 4.0: 94.0})}
    assert factors(beyond, [0, 1]) == [0.5, 1, 2, 4]  # and no further


def test_the_best_factor_has_all_seeds_and_is_the_nearest_to_1_of_equals():
    assert best({**rival(PEAK), 4.0: {0: Run(99.0, 1.0)}}, [0, 1]) == 1
    assert best(rival({0.5: 91.0, 1.0: 90.0, 4.0: 91.0}), [0, 1]) == 0.5


def test_differences_are_paired_by_the_seeds_that_all_have():
    own = {factor: {**of, 7: Run(0.0, 1.0)} for factor, of in rival(FALLING).items()}  # a seed of this one alone
    own[1.0][0] = Run(90.0, 3.0)
    found = {("adam", "mnist"): {"uniform": rival(PEAK), "closeness": own}}
    by_factor = {(each.rival, each.factor): each for each in entries(found)}
    one, half = by_factor["closeness", 1.0], by_factor["closeness", 0.5]
    assert (one.seeds, one.accuracy, one.to_one) == (2, 91.5, (0, 0))
    differences = [90.0 - 92, 93.0 - 93]
    error = statistics.stdev(differences) / 2**0.5
    assert one.to_uniform == pytest.approx((-1, 12.7062 * error), rel=1e-5)  # of Student's t with one degree
    assert (one.gradient_norm, half.gradient_norm) == (2, 1)
    assert half.to_one[0] == statistics.mean([93 - 90, 94 - 93])
    assert "| closeness | 0.5 | 93.50 | +2.00 ± 12.71 | +3.00 ± 0.00 | 1.00 |" in markdown(entries(found))
    said = figures(found)
    assert [said[f"best_adam_mnist_{name}"] for name in ("uniform", "closeness")] == [1, 0.5]
    assert said["lost_adam_mnist_closeness"] == 2


def test_a_run_is_another_one_with_another_optimizer_or_factor_and_reads_back_from_its_line():
    keys = {key(MNIST, optimizer, factor, 0.5, 0, "uniform") for optimizer in ("adam", "momentum") for factor in (1, 2)}
    assert len(keys) == 4
    assert scaled(MNIST, "adam", 2).learning_rate == 2 * MNIST.learning_rate
    line = {"optimizer": "adam", "task": "mnist", "factor": "0.5", "rival": "uniform", "seed": "3"}
    first, again = ({**line, "accuracy": accuracy, "gradient_norm": "2"} for accuracy in ("0.5", "0.9"))
    assert runs([first, again]) == {("adam", "mnist"): {"uniform": {0.5: {3: Run(50.0, 2.0)}}}}


def test_nothing_is_said_of_what_has_no_seed_in_common():
    found = {("adam", "mnist"): {"uniform": rival(PEAK), "closeness": rival({1.0: 90.0})}}
    assert (entries(found), figures(found), markdown(entries(found))) == ([], {}, "")
