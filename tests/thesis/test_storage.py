from pathlib import Path

import pytest

from thesis.grid import GRIDS, cells
from thesis.storage import cell_of, open_study, parameters, suggest, writable


@pytest.mark.parametrize("experiment", list(GRIDS))
def test_a_cell_goes_into_a_trial_and_comes_back(experiment: str):
    study = open_study("sqlite:///:memory:")
    for cell in cells(experiment, 2)[:: len(GRIDS[experiment]) - 1]:
        study.enqueue_trial(parameters(cell))
        trial = study.ask()
        suggest(trial, experiment)
        assert cell_of(trial, experiment) == cell
        study.tell(trial, 1.0)
        assert cell_of(study.trials[-1], experiment) == cell


def test_a_study_is_made_once(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    open_study(url).set_user_attr("known", 1)
    assert open_study(url).user_attrs["known"] == 1


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/study.db", "nodatabase://somewhere/it"])
def test_a_storage_that_cannot_be_opened(url: str):
    with pytest.raises(ValueError, match=r"`storage` cannot be opened \(.*: give another URL"):
        open_study(url)


def test_a_folder_is_made_and_one_that_cannot_be_is_named(tmp_path: Path):
    assert writable(tmp_path / "some" / "where") == tmp_path / "some" / "where"
    assert (tmp_path / "some" / "where" / "checkpoints").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`folder` .*file/below cannot be written \(.*: give another one"):
        writable(tmp_path / "file" / "below")
