from tests.helpers.synthetic import Rows, cell, runs_of
from thesis.markdown import markdown
from thesis.tables import Tables


def page(rows: Rows) -> str:
    captions = {"figure_20.png": "Figure 20: cost", "figure_20_median.png": "Figure 20: median cost"}
    return markdown(Tables(runs_of(rows)), captions)


def test_what_is_missing_is_said():
    text = page(cell(arms=("AS", "uniform"), seeds=1))
    assert "| Adadelta | 256 | 1 run of 15 epochs | not run | 1 run of 15 epochs |" in text
    assert "**Not run: Adadelta, batch 64, AS; Adadelta, batch 64, OBS;" in text
    assert "batch 256, AS;" not in text
    assert "| 256 | AS / OBS | mean | 0.2 | not run | open | – | – |" in text
    assert "| 256 | AS / uniform | mean | 9.02e-5 | 1e-4 (one run) | open | 1 pair | 15 |" in text
    assert "| 14 | Adadelta 64 | the costs are alike | – | – | – | 0 of 0 | open | – |" in text
    assert "*Figure 13: not run.*" in text
    places = [text.index(part) for part in ("Figure 19:", "(figure_20.png)", "(figure_20_median.png)", "Figure 21:")]
    assert places == sorted(places)


def test_zeros_and_undefined_ratios_are_said():
    text = page([row | {"training_cost_median": 0} for row in cell()])
    assert "undefined: the divisor is exactly 0 in 3 of 3 runs" in text
    assert "0 [0, 0]; exactly 0 in 3 of 3 runs" in text
