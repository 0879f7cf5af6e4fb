import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

from benchmarks.budgets.outcomes import Runs, current, goals, outcomes, paired, runs, time_share
from benchmarks.budgets.report import markdown, write
from benchmarks.budgets.table import FIELDS, cell_of
from benchmarks.budgets.tasks import TASKS


def line(
    task: str, budget: float, seed: int, rival: str, accuracy: float, seconds: float, session: str = ""
) -> dict[str, str]:
    given = {
        **dict.fromkeys(FIELDS, "0"),
        **cell_of(TASKS[task], budget, seed, rival)._asdict(),
        "session": session or f"{task} {budget} {seed}",
        "steps": round(100 * budget),
        "seconds": seconds,
        "accuracy": accuracy,
        "balanced_accuracy": accuracy,
    }
    return {name: str(value) for name, value in given.items()}


def table(task: str, gains: dict[float, float], ratio: float = 1.1) -> Runs:
    """Uniform sampling, and `rs2` with gains in points at some budgets, over two seeds."""
    rows = []
    for budget, gain in gains.items():
        for seed in (0, 1):
            accuracy = 0.9 + 0.001 * seed
            rows.append(line(task, budget, seed, "uniform", accuracy, 100 * budget))
            rows.append(line(task, budget, seed, "rs2", accuracy + gain / 100, 100 * budget * ratio))
    return runs(rows)


def verdicts(found: Runs) -> dict[tuple[str, int], bool | None]:
    return {(goal.rival, goal.number): goal.hit for goal in goals(found)}


def test_the_paired_interval_is_that_of_the_paired_t_test():
    ours, theirs = np.array([3.0, 1.0, 4.0, 1.0, 5.0]), np.array([2.0, 2.0, 3.0, 0.5, 4.5])
    middle, half_width = paired((ours - theirs).tolist())
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    np.testing.assert_allclose([middle - half_width, middle + half_width], interval)
    single, unknown = paired([2.0])
    assert (single, math.isnan(unknown)) == (2.0, True)


def test_differences_are_paired_by_seed_and_the_largest_loss_comes_first():
    rows = [line("mnist", 0.5, seed, "uniform", 0.9 + 0.01 * seed, 10.0) for seed in range(3)]
    rows += [line("mnist", 0.5, seed, "rs2", 0.91 + 0.01 * seed, 12.0) for seed in range(4)]  # one without its pair
    rows += [line("mnist", 0.5, seed, "obs", 0.88 + 0.02 * seed, 30.0) for seed in range(2)]
    obs, rs2 = outcomes(runs(rows))
    assert (obs.rival, obs.seeds, rs2.seeds) == ("obs", 2, 3)
    np.testing.assert_allclose([obs.difference, rs2.difference, rs2.half_width], [-1.5, 1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose([obs.ratio, rs2.ratio, rs2.uniform, rs2.figure], [3.0, 1.2, 91.0, 92.0])
    text = markdown([obs, rs2], [])
    assert text.index("| `obs` |") < text.index("| `rs2` |")
    assert "1 of 2 cells lose to uniform sampling, 0 of them clearly" in text


def test_times_are_compared_within_a_session_and_accuracies_with_the_first_run():
    rows = [line("mnist", 1, 0, "uniform", 0.9, 10.0), line("mnist", 1, 0, "rs2", 0.9, 11.0)]
    rows += [line("mnist", 1, 0, "uniform", 0.8, 20.0, "later"), line("mnist", 1, 0, "obs", 0.9, 30.0, "later")]
    found = runs([*rows, line("mnist", 1, 0, "thesis", 0.9, 30.0, "alone")])
    ratios = {each.rival: each.ratio for each in outcomes(found)}
    assert (ratios["rs2"], ratios["obs"]) == (1.1, 1.5)
    assert math.isnan(ratios["thesis"])
    assert {round(each.uniform, 6) for each in outcomes(found)} == {90.0}


def test_lines_of_other_settings_are_left_out():
    row = line("mnist", 1, 0, "rs2", 0.9, 1.0)
    others = [{**row, "config": "0"}, {**row, "task": "gone"}, {**row, "rival": "Gone()"}]
    assert current([*others, row]) == [row]


def test_a_share_of_the_time_is_the_ratio_in_the_session_times_the_budget():
    found = table("mnist", {0.5: 0.0, 1.0: 0.0}, ratio=1.2)
    assert time_share(found, "mnist", "0.5", "rs2") == pytest.approx(0.6)
    assert time_share(found, "mnist", "1", "uniform") == pytest.approx(1.0)


@pytest.mark.parametrize(("gain", "ratio", "hit"), [(-0.05, 1.1, True), (-0.2, 1.1, False), (0.5, 1.3, False)])
def test_goal_1_is_the_full_budgets_accuracy_in_less_time(gain: float, ratio: float, hit: bool):
    found = table("mnist", {0.5: gain, 1.0: 0.0}, ratio)
    assert verdicts(found)["rs2", 1] is hit
    assert verdicts(found)["rs2", 3] is None
    assert verdicts(found)["uniform", 1] is True  # whose half budget is as good in this table


@pytest.mark.parametrize(
    ("full", "half", "hit"), [(0.4, -0.1, True), (0.2, 0.0, False), (0.4, -0.3, False), (-0.1, 0.0, False)]
)
def test_goal_2_is_a_gain_with_wrong_labels_and_a_loss_nowhere(full: float, half: float, hit: bool):
    assert verdicts(table("mnist-wrong10", {0.5: half, 1.0: full}))["rs2", 2] is hit


def test_goal_2_is_missed_by_a_loss_on_any_task():
    found = table("mnist-wrong10", {1.0: 0.4}) | table("adult", {0.25: -0.3})
    assert verdicts(found)["rs2", 2] is False


@pytest.mark.parametrize(("gain", "hit"), [(1.1, True), (0.9, False)])
def test_goal_3_is_a_point_on_imbalanced_tasks(gain: float, hit: bool):
    assert verdicts(table("mnist-tail10", {0.25: 0.0, 1.0: gain}))["rs2", 3] is hit


def test_the_report_has_a_figure_for_each_kind_of_data_that_was_run(tmp_path: Path):
    found = table("mnist", {0.5: -0.3, 1.0: 0.1}) | table("trec6", {1.0: 0.0})
    figures = write(found, tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "clean_images.png",
        "report.md",
        "text_and_tables.png",
    ]
    assert figures == {"cells_rs2": 3, "losing_rs2": 1, "worst_rs2": -0.3, "goals_rs2": 0}
