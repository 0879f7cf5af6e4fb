from pathlib import Path

from tests.helpers.synthetic import cell, row, write
from thesis.markdown import markdown
from thesis.results import read


def page(tmp_path: Path, rows: list[dict[str, object]]) -> str:
    captions = {"figure_20.png": "Figure 20: cost", "figure_20_median.png": "Figure 20: median cost"}
    return markdown(read([write(tmp_path / "epochs.csv", rows)]), captions)


def test_tables_have_ours_beside_the_thesis_s(tmp_path: Path):
    text = page(tmp_path, cell())
    assert "| Adadelta 256, AS / uniform | 9.02e-5 | holds: 1e-4 [5e-5, 4e-4] | holds: 1e-4 [5e-5, 4e-4] |" in text
    assert "| 256 | AS / OBS | mean | 0.2 | 0.5 [0.25, 0.5] | holds | 3 pairs | 15 |" in text
    assert "| 256 | AS | 3e-6 [2e-6, 4e-6] | 3e-9 [2e-9, 4e-9] | 99.42 [99.4, 99.44] | 3 | 15 |" in text
    assert "| 256 | AS | 0.66 | 1.5 [1.5, 1.5] | 2.3 | 1.5 |" in text
    assert "| (90) AS – uniform, Adadelta | 0.6803 | 0.11 [" in text
    assert "not independent" in text
    widths = {line.count("|") for line in text.split("## Table 3")[1].splitlines() if line.startswith("| 256 | AS /")}
    assert widths == {9}


def test_what_is_missing_is_said(tmp_path: Path):
    text = page(tmp_path, cell(arms=("AS", "uniform"), seeds=1))
    assert "| Adadelta | 256 | 1 run of 15 epochs | not run | 1 run of 15 epochs |" in text
    assert "**Not run: Adadelta, batch 64, AS;" in text
    assert "| 256 | AS / OBS | mean | 0.2 | not run | open | – | – |" in text
    assert "| 256 | AS / uniform | mean | 9.02e-5 | 1e-4 (one run) | open | 1 pair | 15 |" in text
    assert "*Figure 13: not run.*" in text
    assert "*Figure 20: not run.*" not in text


def test_figures_stand_in_the_thesis_s_order_by_relative_path(tmp_path: Path):
    text = page(tmp_path, cell())
    places = [text.index(part) for part in ("Figure 19:", "(figure_20.png)", "(figure_20_median.png)", "Figure 21:")]
    assert places == sorted(places)


def test_zeros_and_undefined_ratios_are_said(tmp_path: Path):
    text = page(tmp_path, [row | {"training_cost_median": 0} for row in cell()])
    assert "undefined: the divisor is exactly 0 in 3 of 3 runs" in text
    assert "0 [0, 0]; exactly 0 in 3 of 3 runs" in text


def test_searches_have_a_verdict(tmp_path: Path):
    points = [(p, q) for p in (0.3, 0.6, 0.9) for q in (0.1, 0.4, 0.7)]
    rows = [
        row(experiment="grid-search", optimizer="adam", delta_p=p, delta_q=q, epoch=5, training_cost_mean=p * q + 0.01)
        for p, q in points
    ]
    text = page(tmp_path, rows)
    claim = "δp = 0.9, δq = 0.1 is among the best"
    assert f"| 18 | Adam 256 | {claim} | 0.04 (δp = 0.3, δq = 0.1) | 0.64 | 0.1 (3 of 9) | 0 of 9 | holds | 5 |" in text
    assert "| 14 | Adadelta 64 | the costs are alike | – | – | – | 0 of 0 | open | – |" in text
    assert "above 2.3 nats" in " ".join(text.split())
