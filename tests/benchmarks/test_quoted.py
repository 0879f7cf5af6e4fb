"""What the pages quote of results is what the results have."""

import csv
import re
from functools import cache
from pathlib import Path

import pytest

from benchmarks import bins, convergence, iterable
from benchmarks.budgets.choice import Standing, at_equal_time, standings
from benchmarks.budgets.outcomes import Outcome, current, outcomes, runs
from benchmarks.budgets.table import read
from benchmarks.wrong_labels.report import summed
from thesis.evidence import Evidence
from thesis.page import numbers
from thesis.results import read as read_studies
from thesis.tables import Tables

ROOT = Path(__file__).parents[2]
LABELS_WRONG = "fashion-mnist-wrong10"
HUMAN = "cifar10n-worse"


@cache
def found() -> tuple[dict[tuple[str, str, str, str], Outcome], dict[str, Standing]]:
    """The differences by task, metric, budget and rival, and the standings by rival."""
    table = runs(current(read(ROOT / "benchmarks" / "results" / "budget.csv")))
    standing = {each.rival: each for each in standings(at_equal_time(table))}
    return {(each.task, each.metric, each.budget, each.rival): each for each in outcomes(table)}, standing


def points(task: str, budget: str = "1", rival: str = "closeness", metric: str = "accuracy") -> str:
    one = found()[0][task, metric, budget, rival]
    return f"{one.difference:+.1f} ± {one.half_width:.1f}".replace("-", "−")


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def over(task: str, rival: str = "closeness", metric: str = "accuracy") -> str:
    """At all three budgets."""
    return "{}, {} and {}".format(*(points(task, budget, rival, metric) for budget in ("0.25", "0.5", "1")))


def choosing() -> list[str]:
    _, standing = found()
    closeness, infobatch = standing["closeness"], standing["infobatch"]
    return [
        f"{closeness.mean:.1f} points above uniform sampling at equal time in the mean over the kinds of data",
        f"| {closeness.mean:+.1f} at equal time in the mean over kinds of data, two of 36 cells lost (B). At equal "
        f"steps SST-2 at ½ {points('sst2', '0.5')}, covertype's average precision at the whole budget "
        f"{points('covertype', metric='average_precision')} |",
        f"Fashion-MNIST with 10 % wrong: {over(LABELS_WRONG)} at ¼, ½ and all of the budget; 40 %: "
        f"{over('fashion-mnist-wrong40')} (B)",
        f"whole budget: {points(LABELS_WRONG, rival='thesis')}, {points(LABELS_WRONG, rival='obs')}, "
        f"{points(LABELS_WRONG, rival='selective-backprop')} (B)",
        f"long-tailed MNIST {over('mnist-tail100', metric='balanced_accuracy')}; "
        f"long-tailed Fashion-MNIST {over('fashion-mnist-tail100', metric='balanced_accuracy')} (B)",
        f"| {over('mnist-tail100', 'thesis', 'balanced_accuracy')}; "
        f"on Fashion-MNIST {over('fashion-mnist-tail100', 'thesis', 'balanced_accuracy')} (B)",
        f"MNIST, 10 %: {noisy('noisy_10')['AS']} and, online batch selection, {noisy('noisy_10')['OBS']} for uniform "
        f"sampling's {noisy('noisy_10')['uniform']}, three seeds (E 4)",
        f"balanced accuracy: {points('covertype', '0.5', metric='balanced_accuracy')} at ½, "
        f"{points('covertype', metric='balanced_accuracy')} at the whole budget, for "
        f"{points('covertype', metric='average_precision')} of average precision there",
        f"adult: {points('adult', rival='thesis', metric='balanced_accuracy')} balanced, "
        f"{points('adult', rival='thesis')} plain, whole budget (B)",
        f"CIFAR-10, ten epochs: `ClosenessSampling` {over('cifar10')}, `AdaptiveSampling` {over('cifar10', 'thesis')}, "
        f"`OnlineBatchSelection` {over('cifar10', 'obs')} (B)",
        f"TREC-6 at ¼: `ClosenessSampling` {points('trec6', '0.25')}, `OnlineBatchSelection` "
        f"{points('trec6', '0.25', 'obs')}; SST-2 at the whole budget: {points('sst2')} and "
        f"{points('sst2', rival='obs')}",
        f"two cells lost at equal time, {signed(infobatch.mean)} in the mean over kinds of data (B)",
    ]


def default() -> list[str]:
    _, standing = found()
    return [
        f"{standing['closeness'].mean:.1f} points above uniform sampling in the mean over the kinds of data",
        f"InfoBatch loses in two as well, and is at {signed(standing['infobatch'].mean)}",
        f"SST-2 at ½ ({points('sst2', '0.5')} at equal steps)",
        f"TREC-6 at ¼ ({points('trec6', '0.25')} at equal steps",
        f"with wrong labels {points(LABELS_WRONG)} (10 %) and {points('fashion-mnist-wrong40')} (40 %)",
        f"on long tails {points('mnist-tail100', metric='balanced_accuracy')} and "
        f"{points('fashion-mnist-tail100', metric='balanced_accuracy')}",
        f"on clean images {points('mnist')} and {points('fashion-mnist')}",
        f"on adult {points('adult')}",
        f"`ClosenessSampling` has {over('cifar10')} points at ¼, ½ and all of the budget, the thesis's method "
        f"{over('cifar10', 'thesis')}, online batch selection {over('cifar10', 'obs')}.",
        f"`ClosenessSampling` has {over(HUMAN)} points at ¼, ½ and all of the budget, InfoBatch "
        f"{over(HUMAN, 'infobatch')}, the thesis's method {over(HUMAN, 'thesis')}, online batch selection "
        f"{over(HUMAN, 'obs')}:",
        f"RS2 has {points(HUMAN, rival='rs2')}, `ClosenessSampling` with a fixed γ "
        f"{points(HUMAN, rival='closeness-fixed')}, SelectiveBackprop {points(HUMAN, rival='selective-backprop')}.",
    ]


@cache
def noisy(data: str) -> dict[str, str]:
    """Test accuracies of the thesis's studies with wrong labels, by arm."""
    published = Tables(read_studies(sorted((ROOT / "benchmarks" / "results").glob("*/epochs.csv"))))
    known = numbers(published, Evidence(published))
    return {arm: f"{known[f'arms/4/adadelta_256/{data}/{arm}/accuracy']:.1f} %" for arm in ("uniform", "AS", "OBS")}


def when_not() -> list[str]:
    ten, forty = noisy("noisy_10"), noisy("noisy_40")
    return [
        f"falls from {ten['uniform']} to {ten['AS']} test accuracy and online batch selection to {ten['OBS']}",
        f"with four in ten, to {forty['AS']} (from {forty['uniform']}) and {forty['OBS']}",
        f"has {points('adult', rival='thesis')} points of accuracy at the whole budget, for "
        f"{points('adult', rival='thesis', metric='balanced_accuracy')} of balanced accuracy",
        f"`ClosenessSampling`, which has {points('adult')} there",
        f"the default has {points('fashion-mnist')} points, the thesis's method "
        f"{points('fashion-mnist', rival='thesis')}",
    ]


@pytest.mark.parametrize(("page", "sentences"), [("choosing", choosing), ("default", default), ("when_not", when_not)])
def test_a_page_quotes_the_table_as_it_is(page: str, sentences):
    text = " ".join((ROOT / "docs" / f"{page}.md").read_text().split())
    assert [one for one in sentences() if " ".join(one.split()) not in text] == []


def test_the_default_is_the_method_that_the_rule_puts_first():
    _, standing = found()
    assert next(iter(standing)) == "closeness"
    assert (standing["closeness"].lost, standing["infobatch"].lost) == (2, 2)
    assert min(each.lost for each in standing.values()) == 2
    table, _ = found()
    counted = at_equal_time(runs(current(read(ROOT / "benchmarks" / "results" / "budget.csv"))))
    assert sum(each.rival == "closeness" for each in counted) == 36  # "two of 36 cells", which three pages say
    rs2 = [abs(each.difference) for each in table.values() if each.rival == "rs2" and each.seeds == 5]
    assert max(rs2) < 0.35  # "within 0.3 of uniform sampling in every cell of five seeds"


def test_the_convergence_table_is_that_of_its_results():
    with (ROOT / "benchmarks" / "results" / "convergence.csv").open(newline="") as file:
        found = convergence.figures(list(csv.DictReader(file)), 5)
    share = {name: f"{found[f'test_accuracy_{name}']:.2%}".replace("%", " %") for name in convergence.SAMPLINGS}
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| training cost |"))
    ratios = found["training_cost_ratio"], found["training_cost_ratio_all"]
    costs = [found[f"training_cost_{name}"] for name in convergence.SAMPLINGS]
    quoted = [float(cell) for cell in line.split("|")[2:-1]]
    assert quoted == pytest.approx([*costs[:2], ratios[0], 0.2, costs[2], ratios[1]], rel=0.03)
    assert (
        f"| test accuracy | {share['uniform']} | {share['adaptive']} | | 99.2 % | {share['adaptive_all']} | |" in text
    )


def test_the_table_of_bins_is_that_of_its_results():
    found = {(row["data"], row["bins"]): row for row in bins.summary(bins.read(bins.RESULTS), 6)}
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    for data in ("mnist", "mnist_wrong", "fashion", "fashion_wrong"):
        rows = [found[data, kind] for kind in bins.BINS[1:]]
        cells = [f"{row['points']:+.1f} ± {row['points_error']:.1f}".replace("-", "−") for row in rows]
        assert f"| {' | '.join(cells)} |" in text


def test_the_suspects_table_is_that_of_its_results():
    with (ROOT / "benchmarks" / "results" / "suspects" / "runs.csv").open(newline="") as file:
        found = summed(list(csv.DictReader(file)))
    lines = (ROOT / "docs" / "suspects.md").read_text().splitlines()
    sets = {"MNIST, 10 %": "mnist-10", "MNIST, 40 %": "mnist-40", "CIFAR-10N": "cifar10n-worse"}
    name, seen = "", 0
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 6 or "cleanlab" in line or "by heart" in line or "`" not in cells[0]:
            continue
        name = next((one for start, one in sets.items() if cells[0].startswith(start)), name)
        method, last = cells[0].split("`")[1], max(epoch for of, _, _, epoch in found if of == name)
        row = found[name, method, "suspects", last]
        shares = [f"{row[key]:.0%}".replace("%", " %") for key in ("wrong", "suspected", "precision", "recall")]
        precision = f"{row['average_precision']:.3f}"
        assert [cells[1] or shares[0], cells[2][:5], *cells[3:]] == [shares[0], precision, *shares[1:]]
        seen += 1
    assert seen == 9


def test_the_readme_quotes_the_evidence():
    shares = noisy("noisy_10")
    said = f"from uniform sampling's {shares['uniform']} to {shares['AS']}"
    assert said in " ".join((ROOT / "README.md").read_text().split())


@pytest.mark.parametrize("kind", ["mnist", "tabular"])
def test_the_examples_of_a_comparison_are_those_of_their_reports(kind: str):
    report = (ROOT / "benchmarks" / "results" / "compare" / kind / "report.md").read_text()
    page = (ROOT / "docs" / "compare.md").read_text()
    table = next(part for part in report.split("\n\n") if part.startswith("| rival "))
    assert table in page
    verdicts = re.findall(r"^\*\*(.*)\*\*$", report, re.MULTILINE)
    assert len(verdicts) > 1
    if kind == "mnist":  # whose page has what is printed
        assert [one for one in verdicts if one not in " ".join(page.split())] == []


def test_the_table_of_streams_is_that_of_its_results():
    found = iterable.summary(iterable.read(ROOT / "benchmarks" / "results" / "iterable.csv"), 6)
    assert iterable.table(found) in (ROOT / "docs" / "benchmarks.md").read_text()
    text = (ROOT / "docs" / "scale.md").read_text()
    for row in found:
        if row["method"] == "keep_or_skip":
            assert f"{row['points']:+.2f} ± {row['points_error']:.2f}".replace("-", "−") in text
            assert f"{row['kept']:.0%}".replace("%", " %") in text
