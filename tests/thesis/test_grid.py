from collections import Counter
from typing import Any

import pytest

from lightning_as import AdaptiveSampling, GopalSampling, MNISTDataModule, OnlineBatchSelection
from thesis.grid import ARMS, DATA, GRIDS, Cell, cells, select


@pytest.mark.parametrize(
    ("experiment", "count"),
    [("thesis", 18), ("grid-search", 63), ("weights", 6), ("mends", 36), ("ablation", 28), ("time", 10)],
)
def test_the_cells_of_an_experiment_are_different_and_can_be_made(experiment: str, count: int):
    found = cells(experiment, seeds=2)
    assert len(found) == len(set(found)) == len({cell.name for cell in found}) == 2 * count
    assert [cell.seed for cell in found] == [0] * count + [1] * count
    for cell in found[:count]:
        assert cell.experiment == experiment
        assert "/" not in cell.name
        assert ARMS[cell.arm].make(cell) is not ARMS[cell.arm].make(cell)
        MNISTDataModule(cell.batch_size, bins=ARMS[cell.arm].bins, **DATA[cell.data])


def test_the_grid_of_the_thesis_is_crossed_completely():
    found = cells("thesis", seeds=1)
    combinations = {(cell.arm, cell.optimizer, cell.batch_size) for cell in found}
    assert combinations == {
        (a, o, b) for a in ("uniform", "AS", "OBS") for o in ("adadelta", "adam") for b in (64, 256, 1024)
    }
    assert {cell.data for cell in found} == {"full"}
    assert all(cell.delta_p is None and cell.delta_q is None for cell in found)


def test_the_grid_search_has_the_values_of_the_text():
    found = cells("grid-search", seeds=1)
    per_setting = Counter((cell.optimizer, cell.batch_size) for cell in found)
    assert per_setting.pop(("adadelta", 64)) == 18
    assert set(per_setting.values()) == {9}
    assert {cell.delta_p for cell in found} == {0.3, 0.6, 0.9, 0.902, 0.91, 0.93}
    assert {cell.delta_q for cell in found} == {0.1, 0.4, 0.7, 0.09, 0.089, 0.059}
    strategy = ARMS["AS"].make(found[1])
    assert isinstance(strategy, AdaptiveSampling)
    assert (strategy.delta_p, strategy.delta_q) == (0.3, 0.4)
    assert found[1].name == "grid-search-AS-adadelta_64-full-p0.3-q0.4-seed0"


def test_the_arms_are_what_their_names_say():
    cell = cells("thesis", seeds=1)[0]
    made: dict[str, Any] = {name: arm.make(cell) for name, arm in ARMS.items()}
    assert (
        vars(made["AS"]) == vars(AdaptiveSampling(floor=0.0)) == vars(made["AS_weighted"]) == vars(made["AS_one_bin"])
    )
    assert vars(made["OBS"]) == vars(OnlineBatchSelection())
    assert vars(made["gopal"]) == vars(GopalSampling())
    assert {name for name, arm in ARMS.items() if arm.weights != "source"} == {"AS_weighted", "gopal_unweighted"}
    assert {name for name, arm in ARMS.items() if arm.bins == "single"} == {"AS_one_bin"}
    options = ("bin_statistic", "smoothing", "floor")
    mends = {name: tuple(getattr(made[name], option) for option in options) for name in made if name.startswith("AS")}
    assert mends["AS_floor"] == ("sum", "previous", 0.1)
    assert mends["AS_second_moment"] == ("second_moment", "previous", 0)
    assert mends["AS_statistic"] == ("second_moment", "statistic", 0)
    assert mends["AS_original"] == ("sum", "original", 0)
    assert mends["AS_robust"] == ("second_moment", "statistic", 0.1)
    assert made["AS_q_only"].beta > 1e9


def test_names_of_a_kind_are_alternatives_and_kinds_are_conditions():
    every = cells("ablation", seeds=1) + cells("thesis", seeds=1)
    assert select(every, []) == every
    assert {cell.arm for cell in select(every, ["AS", "OBS"])} == {"AS", "OBS"}
    few = select(cells("thesis", seeds=2), ["AS", "adam_64", "adadelta_1024"])
    assert [(cell.name, cell.seed) for cell in few] == [
        (f"thesis-AS-{setting}-full-seed{seed}", seed) for seed in (0, 1) for setting in ("adadelta_1024", "adam_64")
    ]
    assert {cell.data for cell in select(every, ["noisy_10", "full"])} == {"noisy_10", "full"}
    assert {cell.batch_size for cell in select(every, ["64"])} == {64}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("thesos",), "There is no experiment 'thesos': use one of thesis, grid-search"),
        (("thesis", 0), "`seeds` must be at least 1, got 0"),
        (("thesis", 1, -1), "`first_seed` must not be negative, got -1"),
    ],
)
def test_bad_arguments(arguments: Any, message: str):
    with pytest.raises(ValueError, match=message):
        cells(*arguments)


def test_a_name_that_is_not_there_and_names_that_exclude_each_other():
    every = cells("thesis", seeds=1)
    with pytest.raises(ValueError, match=r"`only` names 'adam_65', but there is: AS, OBS, uniform, .*adam_64.*, full"):
        select(every, ["AS", "adam_65"])
    with pytest.raises(ValueError, match="`only adam_64 256` selects nothing"):
        select(every, ["adam_64", "256"])


def test_seeds_follow_each_other_from_the_first_and_all_else_stays():
    assert [cell.seed for cell in cells("weights", 2, 5)] == [5] * 6 + [6] * 6
    assert GRIDS["weights"][0] == Cell("weights", "uniform", "adadelta", 256, "full", 0)
