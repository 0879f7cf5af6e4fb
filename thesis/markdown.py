"""The page of the thesis's results, as Markdown: its tables and figures in its order, ours beside what it prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

from thesis.comparison import MARGIN, RULE, as_text, interval, markdown_table
from thesis.printed import ARMS, BATCH_SIZES, EPOCH, OPTIMIZERS
from thesis.results import COLLAPSED, Run
from thesis.tables import SEARCH_RULE, AccuracyRow, CellRow, RatioRow, SearchRow, Tables

_SECTIONS = {
    "Training cost: Figures 20 and 21": range(20, 22),
    "Test accuracy: Figures 22 and 23": range(22, 24),
    "The distribution over the digits: Figures 24 to 26": range(24, 27),
    "The variance of the gradients: Figures 27 and 28": range(27, 29),
}
_CLAIMS = {
    "among the best": "δp = 0.9, δq = 0.1 is among the best",
    "alike": "the costs are alike",
    "diverge": "most diverge",
}
_INTRODUCTION = f"""# The thesis's results, run again

Made by `python -m thesis report thesis` from what `python -m thesis run thesis` and
`python -m thesis run grid-search` measured. AS is adaptive sampling, OBS online batch selection, and uniform what
the thesis calls Default Random. The training cost is the cross-entropy over the whole training set, in evaluation mode:
its mean, as in the thesis, or its median. All of ours are medians over the runs (seeds), with bootstrap intervals of
95 % in brackets. Of two to five runs such an interval is only the smallest and the largest of them, and misses the true
median with a chance of 50, 25, 12 and 6 %: with two or three seeds it says very little. Of one run there is none.

Runs of unequal length are compared at the last epoch that all compared have, at most epoch {EPOCH} in Tables 3 and 4;
the tables say which."""
_TABLE_2 = f"""Ours are the accuracies of single runs after the last epoch that all compared have, in percentage points.
"Difference" is AS less the other, with p of Welch's t test; "equivalence" is p of two one-sided Welch tests against a
difference of {MARGIN:g} points or more (small: alike); g is Hedges' effect size. The claim that AS is as accurate
*holds* if the equivalence has p < 0.05, *does not hold* if Welch's test has and the equivalence has not, and else is
*open*.

The last column is the thesis's own test, on our runs: a t test with equal variances of the last values of the averaged
curves. It is not a test of the methods: values of one averaged curve are not independent of each other and do not show
how much runs differ, and a large p does not show that two means are alike."""


def markdown(tables: Tables, captions: Mapping[str, str]) -> str:
    """The page.

    Args:
        tables: Of all runs.
        captions: Of the figures that were made, by file name, in order.
    """
    parts = [
        _INTRODUCTION,
        "## What holds",
        _summary(tables.ratios),
        fill(RULE, 120),
        "## What was run",
        _cells(tables),
        "## The search for δp and δq: Figures 13 to 19",
        _searches(tables.searches),
        fill(f"{SEARCH_RULE} P has collapsed where its smallest entry was below {COLLAPSED:g} in any epoch.", 120),
        _figures(range(13, 20), captions),
        *(f"## {title}\n\n{_figures(numbers, captions)}" for title, numbers in _SECTIONS.items()),
        "## Table 2: test accuracy",
        _accuracies(tables.accuracies),
        _TABLE_2,
    ]
    for number, optimizer in enumerate(OPTIMIZERS, 3):
        ratios = [row for row in tables.ratios if row.optimizer == optimizer]
        cells = [row for row in tables.cells if row.optimizer == optimizer]
        title = f"## Table {number}: AS with {OPTIMIZERS[optimizer]}"
        parts += [title, _ratios(ratios), _costs(cells), _minutes(cells)]
    return "\n\n".join(parts) + "\n"


def _figures(numbers: Iterable[int], captions: Mapping[str, str]) -> str:
    """Of a figure that the runs do not allow, that is said."""
    parts = []
    for number in numbers:
        names = [f"figure_{number}.png", f"figure_{number}_median.png"]
        drawn = [f"![{captions[name]}]({name})\n\n*{captions[name]}.*" for name in names if name in captions]
        parts += drawn or [f"*Figure {number}: not run.*"]
    return "\n\n".join(parts)


def _summary(ratios: Sequence[RatioRow]) -> str:
    """A verdict on each ratio of Tables 3 and 4, under the mean and under the median."""
    rows = []
    for mean, median in zip(ratios[::2], ratios[1::2], strict=True):
        cell = f"{OPTIMIZERS[mean.optimizer]} {mean.batch_size}, AS / {mean.against}"
        found = (f"{row.verdict}: {interval(row.ours)}" for row in (mean, median))
        rows.append([cell, as_text(mean.printed, 3), *found])
    return markdown_table(["training cost", "thesis", "ours, mean cost", "ours, median cost"], rows)


def _searches(rows: Sequence[SearchRow]) -> str:
    """A verdict on what the thesis sees in each search."""
    lines = []
    for row in rows:
        setting = f"{OPTIMIZERS[row.optimizer]} {row.batch_size}"
        best = "–" if row.delta_p is None else f"{as_text(row.lowest)} (δp = {row.delta_p:g}, δq = {row.delta_q:g})"
        chosen = "–" if row.rank is None else f"{as_text(row.chosen)} ({row.rank} of {row.points})"
        collapsed = f"{row.collapsed} of {row.points}"
        found = [best, as_text(row.highest), chosen, collapsed, row.verdict, as_text(row.epoch, 3)]
        lines.append([str(row.figure), setting, _CLAIMS[row.claim], *found])
    header = [
        "figure",
        "setting",
        "thesis",
        "ours: lowest cost",
        "highest",
        "thesis's choice (rank)",
        "P collapsed",
        "verdict",
        "epoch",
    ]
    return markdown_table(header, lines)


def _cells(tables: Tables) -> str:
    """How many runs there are of each cell of the protocol, and which cells have none."""
    rows, missing = [], []
    for optimizer, name in OPTIMIZERS.items():
        for batch_size in BATCH_SIZES:
            own = tables.arms(optimizer, batch_size)
            rows.append([name, str(batch_size), *(_seeds(runs) for runs in own.values())])
            missing += [f"{name}, batch {batch_size}, {arm}" for arm, runs in own.items() if not runs]
    said = f"**Not run: {'; '.join(missing)}.**" if missing else "No cell of the protocol is missing."
    return "\n\n".join([markdown_table(["optimizer", "batch", *ARMS], rows), said])


def _seeds(runs: Sequence[Run]) -> str:
    if not runs:
        return "not run"
    ends = sorted({int(run.epochs[-1]) for run in runs})
    epochs = f"{ends[0]} epochs" if len(ends) == 1 else f"{ends[0]} to {ends[-1]} epochs"
    return f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} of {epochs}"


def _accuracies(rows: Sequence[AccuracyRow]) -> str:
    lines = []
    for row in rows:
        ours, values = row.ours, "–" if row.pooled_p is None else f"{as_text(row.pooled_p)} ({row.values} values)"
        lines.append(
            [
                f"({row.printed.equation}) AS – {row.printed.against}, {OPTIMIZERS[row.printed.optimizer]}",
                f"{row.printed.p_value:g}",
                _bracketed(ours.difference, ours.low, ours.high),
                as_text(ours.welch_p),
                as_text(ours.equivalence_p),
                _bracketed(ours.hedges_g, ours.g_low, ours.g_high),
                f"{ours.runs} and {ours.other_runs}",
                as_text(row.epoch, 3),
                row.verdict,
                values,
            ]
        )
    header = ["hypothesis", "thesis: p", "difference", "Welch: p", "equivalence: p", "g", "runs", "epoch"]
    return markdown_table([*header, "as accurate?", "ours the thesis's way: p"], lines)


def _bracketed(value: float | None, low: float | None, high: float | None) -> str:
    return as_text(value) if low is None else f"{as_text(value)} [{as_text(low)}, {as_text(high)}]"


def _ratios(rows: Sequence[RatioRow]) -> str:
    lines = []
    for row in rows:
        of = "unpaired" if not row.ours.paired else "pair" if row.ours.runs == 1 else "pairs"
        runs = f"{row.ours.runs} {of}" if row.ours.runs else "–"
        head = [str(row.batch_size), f"AS / {row.against}", row.statistic, as_text(row.printed, 3)]
        lines.append([*head, interval(row.ours), row.verdict, runs, as_text(row.epoch, 3)])
    return markdown_table(["batch", "ratio", "training cost", "thesis", "ours", "verdict", "runs", "epoch"], lines)


def _costs(rows: Sequence[CellRow]) -> str:
    lines = []
    for row in rows:
        zeros = f"; exactly 0 in {row.zeros} of {row.cost_median.runs} runs" if row.zeros else ""
        costs = [interval(row.cost_mean), interval(row.cost_median) + zeros, interval(row.accuracy, 4)]
        lines.append([str(row.batch_size), row.arm, *costs, str(row.cost_mean.runs), as_text(row.epoch, 3)])
    header = ["batch", "arm", "mean training cost (nats)", "median training cost (nats)", "test accuracy (%)"]
    return "What the ratios are of:\n\n" + markdown_table([*header, "runs", "epoch"], lines)


def _minutes(rows: Sequence[CellRow]) -> str:
    lines = []
    for row in rows:
        base = next(r for r in rows if r.batch_size == row.batch_size and r.arm == "uniform")
        ours, of_uniform = row.minutes.value, base.minutes.value
        times = None if ours is None or not of_uniform else ours / of_uniform
        printed = [as_text(row.minutes_printed, 3), as_text(row.minutes_printed / base.minutes_printed)]
        lines.append(
            [
                str(row.batch_size),
                row.arm,
                printed[0],
                interval(row.minutes) if row.minutes.runs or row.epoch is None else "not timed",
                printed[1],
                as_text(times),
            ]
        )
    header = ["batch", "arm", "thesis: minutes", "ours: minutes", "thesis: times uniform's", "ours: times uniform's"]
    note = (
        f"Training time until the epoch compared (thesis: epoch {EPOCH}), without the evaluations. The thesis's "
        "machine was another, so that only the multiples of uniform's time can be compared, and no verdict is given:"
    )
    return f"{fill(note, 120)}\n\n{markdown_table(header, lines)}"
