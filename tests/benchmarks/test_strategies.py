import re
from pathlib import Path

import pytest

from benchmarks.strategies import RESULTS, read, summary, table

PAGE = Path(__file__).parents[2] / "docs" / "comparison.md"


def test_the_tables_of_the_page_are_those_of_the_results():
    page, rows = PAGE.read_text(), read(RESULTS)
    for kind in ("full", "imbalanced"):
        assert table(rows, kind) in page


def test_what_the_page_says_of_them_holds():
    found = {(row["data"], row["strategy"]): row for row in summary(read(RESULTS))}

    def lead(kind: str, name: str, key: str = "cost") -> float:
        return found[kind, "Uniform"]["cost"] / found[kind, name][key]

    def points(kind: str, name: str) -> float:
        return 100 * (found[kind, name]["accuracy"] - found[kind, "Uniform"]["accuracy"])

    by_losses = ("AdaptiveSampling", "annex", "OnlineBatchSelection", "LossProportional", "PrioritizedSampling")
    assert [round(f([lead("full", name) for name in by_losses])) for f in (min, max)] == [3, 8]
    assert [round(f([lead("imbalanced", name) for name in by_losses])) for f in (min, max)] == [2, 14]
    assert [round(f([points("imbalanced", name) for name in by_losses])) for f in (min, max)] == [4, 6]
    weighted = ("GopalSampling", "LearnedProposal", "StaticImportanceSampling", "InfoBatch", "GradientNormSampling")
    assert [round(f([points("imbalanced", name) for name in weighted])) for f in (min, max)] == [-4, 1]
    scorers = ("SelectiveBackprop", "UpperBoundImportanceSampling", "LearnedFilter")
    assert all(lead("full", name) > 1 for name in scorers)
    for kind, level in (("full", 1.4), ("imbalanced", 1.0)):
        first, *others = (lead(kind, name, "cost_in_time") for name in scorers)
        assert first == pytest.approx(level, abs=0.05)
        assert max(others) < 0.9
    rho, submodular = found["full", "RHOLoss"], found["full", "SubmodularBatchSelection"]
    assert (round(rho["time"]), round(submodular["time"])) == (4, 12)
    assert round(100 * found["imbalanced", "RHOLoss"]["accuracy"]) == 60
    assert round(points("imbalanced", "LearnedFilter")) == -4
    costly = {"OnlineBatchSelection", "StratifiedSampling", "SubmodularBatchSelection", "RHOLoss", *scorers}
    assert max(row["time"] for row in found.values() if row["strategy"] not in costly) < 1.055
    assert len(re.findall(r"^\| (?!strategy|---)", PAGE.read_text(), re.M)) == len(found)
