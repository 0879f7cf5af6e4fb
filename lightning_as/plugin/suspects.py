"""Which labels look wrong: the examples in the order in which to check them, and where to stop.

The ranking is by a mean margin, as of Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin
Ranking" (NeurIPS 2020). All visits count the same in theirs; late ones count more in the late margin of
:mod:`lightning_as.core.record`, which is better as long as the wrong labels have not been learnt by heart, and worse
then. Their threshold takes examples of a class that the model does not have. Here it is that of Otsu, "A Threshold
Selection Method from Gray-Level Histograms" (IEEE Transactions on Systems, Man, and Cybernetics, 1979): it parts the
scores into the two groups whose means explain most of their variance; and no label is suspected for which the model
speaks in the mean. How much that is of the variance, Otsu's measure of how well they part, also says which of the two
means is taken. What was measured is in `docs/suspects.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from lightning.pytorch.utilities.exceptions import MisconfigurationException

COLUMNS = {
    "index": "position in the data set",
    "label": "its label",
    "other": "the class that it looked most like at the last visit, but for its label",
    "score": "how much speaks against the label: the negative of the margin, or of the late margin",
    "suspected": "whether the score is above the threshold",
    "margin": "as in the table of the examples, as all that follow",
    "confidence": "the smoothed probability of the label",
    "smoothed_loss": "the smoothed loss",
    "drawn": "times trained on",
}
"""The columns of the table, in their order, and what they are."""


class Parts(NamedTuple):
    """How scores fall into two groups."""

    threshold: float
    """In the middle between the two scores that it parts; infinite if all are the same."""
    explained: float
    """The share of the variance that the means of the groups explain, in [0, 1]."""


def suspects_of(known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of the table, (M,) each, of the M examples whose margin is known, the most suspected first.

    Args:
        known: What is known of all, (N,) each, as by :func:`lightning_as.plugin.examples.known_of`.

    Raises:
        MisconfigurationException: If no margin is known.
    """
    if np.isnan(known["margin"]).all():
        raise MisconfigurationException(
            "No label can be suspected: what tells is the margin, the logit of the label minus the largest other one, "
            "and none is known. It needs one class per example, and logits at hand: return `logits` from "
            "`training_step`, or name what gives them in `AdaptiveSamplingCallback(logits_from=…)`. For regression, "
            "soft labels, or several labels of one example there is no such list: sort `examples()` by `smoothed_loss`."
        )
    scores = [-known[name] for name in ("margin", "late_margin")]
    parted = [parts(score) for score in scores]
    score, (threshold, _) = max(zip(scores, parted, strict=True), key=lambda one: one[1].explained)
    order = np.argsort(-score, kind="stable")[: np.isfinite(score).sum()]  # equal ones in the data's order, NaN last
    columns = {**known, "score": score, "suspected": score > max(threshold, 0.0)}
    return {name: columns[name][order] for name in COLUMNS}


def parts(score: np.ndarray) -> Parts:
    """Otsu's two groups of scores, (N,) float64, NaN where unknown."""
    values = np.sort(score[np.isfinite(score)])
    if len(values) == 0 or values[0] == values[-1]:
        return Parts(np.inf, 0.0)
    below = np.arange(1, len(values))
    above, sums = len(values) - below, np.cumsum(values)
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2 / len(values) ** 2
    between[values[1:] == values[:-1]] = -1.0  # equal ones stay together
    cut = int(between.argmax())
    return Parts(float(values[cut : cut + 2].mean()), float(between[cut] / values.var()))
