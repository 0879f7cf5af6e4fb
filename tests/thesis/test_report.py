import io
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import synthetic
from tests.helpers.synthetic import cell, row
from thesis.report import figures, report, write
from thesis.results import read


def test_one_folder_has_all_that_the_page_shows(tmp_path: Path):
    rows = [*cell(seeds=2), row(experiment="grid-search", delta_p=0.9, delta_q=0.1)]
    files = report(read([synthetic.write(tmp_path / "epochs.csv", rows)]))
    shown = re.findall(r"\]\((\S+)\)", files["report.md"].decode())
    assert shown == [f"figure_{name}.png" for name in (15, 20, "20_median", 22, 27)]
    made = {name for name in files if name.endswith(".png")}
    assert made == {*shown, "training_cost.png"}
    for name in made:
        assert Image.open(io.BytesIO(files[name])).size[0] > 600
        assert len(files[name]) < 150_000
    assert {name for name in files if name.endswith(".csv")} == {
        "table_2.csv",
        "tables_3_and_4.csv",
        "cells.csv",
        "figures_13_to_19.csv",
        "searches.csv",
    }
    assert len(files["cells.csv"].decode().splitlines()) == 19


def test_each_figure_of_the_thesis_is_made_if_it_was_run(tmp_path: Path):
    rows = [
        row(arm="AS", optimizer=optimizer, batch_size=size, epoch=epoch)
        for optimizer in ("adadelta", "adam")
        for size in (64, 256, 1024)
        for epoch in (0, 1)
    ]
    rows += [
        r | {"experiment": "grid-search", "delta_p": p, "delta_q": q}
        for r in rows
        for p, q in ((0.9, 0.1), (0.91, 0.09))
    ]
    found = figures(read([synthetic.write(tmp_path / "epochs.csv", rows)]))
    names = [f"figure_{number}.png" for number in range(13, 29)]
    assert set(names) < set(found)
    assert all(caption.startswith("Figure") or name == "training_cost.png" for name, (_, caption) in found.items())


def test_results_of_other_experiments_alone_are_refused(tmp_path: Path):
    runs = read([synthetic.write(tmp_path / "epochs.csv", [row(experiment="time")])])
    with pytest.raises(ValueError, match=r"no trained run .* but of \['time'\]"):
        report(runs)


def test_writing_replaces_and_leaves_the_rest(tmp_path: Path):
    folder = tmp_path / "new" / "report"
    write({"a": b"1", "b": b"2"}, folder)
    (folder / "mine").write_text("3")
    write({"a": b"4"}, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "4", "b": "2", "mine": "3"}
