"""Which labels look wrong: the examples in the order in which to check them, and where to stop.

The ranking is by the late margin of :mod:`lightning_as.core.record`: the margin of Pleiss et al., "Identifying
Mislabeled Data using the Area Under the Margin Ranking" (NeurIPS 2020), of which late visits count more. Their
threshold takes examples of a class that the model does not have. Here it is that of Otsu, "A Threshold Selection Method
from Gray-Level Histograms" (IEEE Transactions on Systems, Man, and Cybernetics, 1979), which parts the scores into the
two groups whose means explain most of their variance; and no label is suspected for which the model speaks in the mean.
What was measured is in `docs/suspects.md`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from lightning.pytorch.utilities.exceptions import MisconfigurationException

COLUMNS = {
    "index": "position in the data set",
    "label": "its label",
    "other": "the class that it looked most like at the last visit, but for its label",
    "score": "how much speaks against the label: the negative of the mean margin, late visits counting more",
    "suspected": "whether the score is above the threshold",
    "margin": "as in the table of the examples, as all that follow",
    "confidence": "the smoothed probability of the label",
    "smoothed_loss": "the smoothed loss",
    "drawn": "times trained on",
}
"""The columns of the table, in their order, and what they are."""


def suspects_of(known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of the table, (M,) each, of the M examples whose margin is known, the most suspected first.

    Args:
        known: What is known of all, (N,) each, as by :func:`lightning_as.plugin.examples.known_of`.

    Raises:
        MisconfigurationException: If no margin is known.
    """
    score = -known["late_margin"]
    if np.isnan(score).all():
        raise MisconfigurationException(
            "No label can be suspected: what tells is the margin, the logit of the label minus the largest other one, "
            "and none is known. It needs one class per example, and logits at hand: return `logits` from "
            "`training_step`, or name what gives them in `AdaptiveSamplingCallback(logits_from=…)`. For regression, "
            "soft labels, or several labels of one example there is no such list: sort `examples()` by `smoothed_loss`."
        )
    order = np.argsort(-score, kind="stable")  # equal ones in the data set's order, NaN last
    order = order[: np.isfinite(score).sum()]
    columns = {**known, "score": score, "suspected": score > threshold(score)}
    return {name: columns[name][order] for name in COLUMNS}


def threshold(score: np.ndarray) -> float:
    """Otsu's threshold of scores, (N,) float64, NaN where unknown, or 0 if that is larger.

    It is in the middle between the two scores that it parts; infinite if all are the same.
    """
    values = np.sort(score[np.isfinite(score)])
    if len(values) == 0 or values[0] == values[-1]:
        return np.inf
    below = np.arange(1, len(values))
    above, sums = len(values) - below, np.cumsum(values)
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    parted = int(np.where(values[1:] > values[:-1], between, -1.0).argmax())
    return max(float(values[parted : parted + 2].mean()), 0.0)
