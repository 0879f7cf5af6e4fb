import os
from pathlib import Path

import pytest

from thesis.epochs_csv import write
from thesis.grid import Cell
from thesis.measurements import MEASURED

HEADER = (
    "experiment,arm,optimizer,batch_size,data,seed,epoch,training_cost_mean,training_cost_median,test_cost,"
    "test_accuracy,seconds,ess,variance_uniform,variance_weighted,variance_drawn,delta_p,delta_q,p\n"
)
ROW = {name: str(at) for at, name in enumerate(MEASURED)} | {"variance_weighted": "inf", "p": "0.5;0.5"}


def test_every_row_is_a_line_with_exactly_these_columns(tmp_path: Path):
    path = tmp_path / "epochs.csv"
    write(path, [])
    assert path.read_text() == HEADER
    plain = Cell("thesis", "AS", "adam", 64, "full", 3)
    searched = Cell("grid-search", "AS", "adadelta", 256, "full", 0, 0.902, 0.1)
    write(path, [(plain, [ROW, ROW]), (searched, [ROW])])
    line = "thesis,AS,adam,64,full,3,0,1,2,3,4,5,6,7,inf,9,,,0.5;0.5\n"
    last = "grid-search,AS,adadelta,256,full,0,0,1,2,3,4,5,6,7,inf,9,0.902,0.1,0.5;0.5\n"
    assert path.read_bytes().decode() == HEADER + line + line + last
    assert os.listdir(tmp_path) == ["epochs.csv"]


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "epochs.csv"
    write(path, [])
    with pytest.raises(KeyError):
        write(path, [(Cell("thesis", "AS", "adam", 64, "full", 3), [{"epoch": "1"}])])
    assert path.read_text() == HEADER
