from thesis.mends import CollapseRow, DefaultRow

from thesis.comparison import Estimate, Ratio
from thesis.evidence import ArmRow, TimeRow
from thesis.evidence_markdown import QUESTIONS, evidence_markdown
from thesis.tables import RatioRow

ONE = Ratio(0.5, 0.25, 1.0, 3, True, "")
COST = Estimate(1e-3, 1e-4, 1e-2, 3)


def test_each_question_has_its_figure_and_its_table():
    claim = RatioRow("adam", 64, "OBS", "mean", 15, 17e2, ONE, "does not hold")
    arm = ArmRow("adadelta", 256, "noisy_10", "AS_weighted", 15, COST, ONE, COST, COST)
    reached = TimeRow("adam", 256, "OBS", "training cost 1e-2", 4.5, Estimate(2.5, None, None, 1), 2)
    never = TimeRow("adam", 256, "uniform", "training cost 1e-2", None, Estimate(None, None, None, 0), 2)
    default = DefaultRow("AS_floor", 5, 0.5, 2.0, "Adam 64", False)
    figures = [f"question_{number}.png" for number in (1, 2, 4, 5)]
    collapse = CollapseRow("adam", 64, "AS_statistic", 0, 30, 1.5e-17, 4, 27, 3.1e-3, 99.11)
    page = evidence_markdown(
        [claim], {2: [arm], 3: [], 4: []}, {5: [reached, never], 6: []}, [collapse], [default], figures
    )
    assert all(f"## {number}. {title}" in page for number, title in enumerate(QUESTIONS, 1))
    assert page.count("*Not run.*") == 2
    assert "| Adam 64 | AS / OBS | mean | 1.7e3 | 0.5 [0.25, 1] | does not hold | 15 |" in page
    assert "| Adadelta 256, noisy_10 | AS with unbiased weights | 1e-3 [1e-4, 0.01] |" in page
    assert "| training cost 1e-2 | Adam 256 | OBS | 4.5 | 2.5 (one run) | 1 of 2 |" in page
    assert "| training cost 1e-2 | Adam 256 | uniform | not reached | – | 0 of 2 |" in page
    assert "| Adam 64 | mean Ĝ/q², averaged over windows | 0 | 30 | 1.5e-17 | 4 | epoch 27 | 3.1e-3 | 99.11 |" in page
    assert "| floor: ε = 0.1 | 5 of 6 | 0.5 | 2 (Adam 64) |  |" in page
    assert "at most 3 times" in page
