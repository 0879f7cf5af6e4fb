from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_as import AdaptiveSampling, GopalSampling, MNISTDataModule, OnlineBatchSelection
from tests.helpers.synthetic import row, runs_of
from thesis.grid import ARMS, DATA, GRIDS, cells, over_bins, select

CONFIGS = Path(__file__).parents[2] / "thesis" / "configs"


@pytest.mark.parametrize(
    ("study", "count"),
    [
        ("thesis", 18),
        ("grid-search", 63),
        ("weights", 6),
        ("mends", 36),
        ("ablation", 28),
        ("time", 10),
        ("variance", 18),
    ],
)
def test_the_cells_of_a_study_are_different_and_can_be_made(study: str, count: int):
    found = cells(study, seeds=2, first_seed=5)
    assert len(found) == len(set(found)) == len({cell.name for cell in found}) == 2 * count
    assert [cell.seed for cell in found] == [5] * count + [6] * count
    assert [cell._replace(seed=0) for cell in found] == 2 * GRIDS[study]
    for cell in found[:count]:
        assert cell.experiment == study
        assert "/" not in cell.name
        assert ARMS[cell.arm].make(cell) is not ARMS[cell.arm].make(cell)
        MNISTDataModule(cell.batch_size, bins=ARMS[cell.arm].bins, **DATA[cell.data])


def plain_options(strategy: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(strategy).items() if isinstance(value, str | int | float)}


def test_the_arms_are_what_their_names_say():
    made = {name: arm.make(cells("thesis", 1)[0]) for name, arm in ARMS.items()}
    options = {name: plain_options(strategy) for name, strategy in made.items()}
    changes = {
        "AS_weighted": {},
        "AS_one_bin": {},
        "AS_floor": {"floor": 0.1},
        "AS_second_moment": {"bin_statistic": "second_moment"},
        "AS_statistic": {"bin_statistic": "second_moment", "smoothing": "statistic"},
        "AS_original": {"smoothing": "original"},
        "AS_robust": {"bin_statistic": "second_moment", "smoothing": "statistic", "floor": 0.1},
        "AS_q_only": {"beta": 10**12},
    }
    for name, own in changes.items():
        assert options[name] == {**options["AS"], **own}
    assert options["AS"] == plain_options(AdaptiveSampling(floor=0.0, points="independent"))
    assert options["OBS"] == plain_options(OnlineBatchSelection(points="independent"))
    assert options["gopal"] == options["gopal_unweighted"] == plain_options(GopalSampling(points="independent"))
    for name, own in {"robust": changes["AS_robust"], "annex": {"bin_statistic": "sum_over_q"}}.items():
        (callback,) = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["trainer"]["callbacks"]
        assert callback["init_args"]["strategy"]["init_args"] == {"floor": 0.0, "points": "independent", **own}
    searched = cells("grid-search", 1)[1]
    assert plain_options(ARMS["AS"].make(searched)) == {**options["AS"], "delta_p": 0.3, "delta_q": 0.4}
    assert searched.name == "grid-search-AS-adadelta_64-full-p0.3-q0.4-seed0"
    weights = {name: arm.weights for name, arm in ARMS.items() if arm.weights != "source"}
    assert weights == {"AS_weighted": "unbiased", "gopal_unweighted": "none"}
    assert {name for name, arm in ARMS.items() if arm.bins == "single"} == {"AS_one_bin"}


def test_names_of_a_kind_are_alternatives_and_kinds_are_conditions():
    every = cells("ablation", seeds=1)
    assert select(every, []) == every
    assert {cell.data for cell in select(every, ["noisy_10", "full"])} == {"noisy_10", "full"}
    few = select(cells("thesis", seeds=2), ["AS", "adam_64", "adadelta_1024"])
    assert [(cell.name, cell.seed) for cell in few] == [
        (f"thesis-AS-{setting}-full-seed{seed}", seed) for seed in (0, 1) for setting in ("adadelta_1024", "adam_64")
    ]


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (cells, ("thesos",), "There is no study 'thesos': use one of thesis, grid-search"),
        (cells, ("thesis", 0), "`seeds` must be at least 1, got 0"),
        (cells, ("thesis", 1, -1), "`first_seed` must not be negative, got -1"),
        (select, (GRIDS["thesis"], ["adam_64", "256"]), "`only adam_64 256` selects nothing"),
    ],
)
def test_bad_arguments(call: Any, arguments: Any, message: str):
    with pytest.raises(ValueError, match=message):
        call(*arguments)


def test_p_is_what_was_recorded_without_the_part_of_the_floor():
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # of the digits
    wanted = np.array([0.0022, *[0.9978 / 9] * 9])
    recorded = 0.9 * wanted + 0.1 * np.array(counts) / 60_000
    (run,) = runs_of([row(arm="AS_robust", p=";".join(f"{part:.6g}" for part in recorded))])
    np.testing.assert_allclose(over_bins(run)[0], wanted, atol=1e-6)
    (run,) = runs_of([row(arm="AS", p=";".join(f"{part:.6g}" for part in recorded))])
    np.testing.assert_array_equal(over_bins(run), run.p)
