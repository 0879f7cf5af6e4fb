"""The figure of question 7."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from thesis.evidence_figures import BLACK, BLUE, COLOURS, GREY, LABELS, ORANGE, estimate, name_rows
from thesis.figures import EPOCH_LABEL, curves, epochs, legend, new_figure
from thesis.grid import VARIED
from thesis.printed import OPTIMIZERS
from thesis.results import Run
from thesis.variance import LayerRow

DISTRIBUTIONS = {
    "ratio_own": "its own P and Q",
    "ratio_own_floor": "… and a tenth uniform",
    "ratio_p_sizes": "its Q, P the bins' shares",
    "ratio_p_best": "its Q, the best P for it",
    "ratio_q_loss": "its P, Q by losses of now",
    "ratio_q_bound": "its P, Q by bounds of now",
    "ratio_q_norm": "its P, Q by norms of now",
    "ratio_loss": "one bin, losses of now",
    "ratio_bound": "one bin, bounds of now",
    "ratio_norm": "one bin, norms of now: the least",
    "ratio_presample": "the best of 3 batches, by bounds",
}
"""What :mod:`thesis.gradients` puts for the distribution, in a few words."""


def variance_figure(runs: Sequence[Run], rows: Sequence[LayerRow]) -> Figure:
    """Question 7: the variance of the weighted estimate over a uniform draw's, by epoch, and of other distributions.

    Args:
        runs: Those of the study ``variance``.
        rows: Of the same.
    """
    optimizers = {key: name for key, name in OPTIMIZERS.items() if any(run.cell.optimizer == key for run in runs)}
    figure = new_figure("Variance of the gradient estimate of one draw, over that of a uniform draw", (13, 5.2))
    *left, right = figure.subplots(1, 1 + len(optimizers), width_ratios=[1] * len(optimizers) + [1.5])
    arms = [arm for arm in VARIED if any(run.cell.arm == arm for run in runs) and arm != "uniform"]
    colours = dict(zip(arms, (BLUE, *COLOURS[1:], GREY, BLACK), strict=False))
    for axes, (optimizer, name) in zip(left, optimizers.items(), strict=True):
        own = {arm: [r for r in runs if (r.cell.arm, r.cell.optimizer) == (arm, optimizer)] for arm in arms}
        columns = {arm: "ratio_presample" if arm == "upper_bound" else "ratio_own" for arm in arms}
        curves(axes, [(own[arm], columns[arm], colours[arm]) for arm in arms], epochs, logarithmic=True)
        axes.axhline(1, color=GREY, linewidth=0.8)
        axes.set(xlabel=EPOCH_LABEL)
        axes.set_title(name, loc="left", fontsize=11)
    left[0].set_ylabel("variance / that of a uniform draw")
    legend(figure, [(LABELS[arm], colours[arm]) for arm in arms])
    for at, (optimizer, colour) in enumerate(zip(optimizers, (BLUE, ORANGE), strict=False)):
        found = {r.quantity: r.trained for r in rows if (r.arm, r.optimizer) == ("AS", optimizer)}
        for height, quantity in enumerate(reversed(DISTRIBUTIONS)):
            if (value := found.get(quantity)) is not None:
                estimate(right, value.value, value.low, value.high, height + 0.15 - 0.3 * at, colour)
        right.text(0.02, 0.09 - 0.06 * at, OPTIMIZERS[optimizer], color=colour, transform=right.transAxes)
    right.set_xscale("log")
    right.axvline(1, color=GREY, linewidth=0.8)
    right.set_title("other distributions, at the networks of AS", loc="left", fontsize=11)
    name_rows(right, {label: len(DISTRIBUTIONS) - 1.0 - at for at, label in enumerate(DISTRIBUTIONS.values())})
    return figure
