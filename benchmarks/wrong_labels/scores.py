"""How well a score, or a rule, finds the labels that are known to be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

SCORES = {"margin": -1, "late_margin": -1, "confidence": -1, "smoothed_loss": 1, "loss": 1}
"""What is known of the examples, with the sign by which larger ones speak against the label."""
QUALITIES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
FILTERS = ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given")
Row = dict[str, object]


def judged(
    known: Mapping[str, np.ndarray], score: np.ndarray, flagged: np.ndarray, labels: np.ndarray, wrong: np.ndarray
) -> list[Row]:
    """How well each score and rule finds what is wrong: of `suspects()`, of single columns, of margins below 0."""
    margin = known["margin"]
    scores = {name: sign * known[name] for name, sign in SCORES.items()}
    scores["margin_in_class"] = -standardised(margin, labels)
    ours: Row = {"score": "suspects", **ranked(score, wrong), **found(flagged, wrong)}
    others: list[Row] = [{"score": name, **ranked(each, wrong)} for name, each in scores.items()]
    return [ours, *others, {"score": "margin_below_0", **found(margin < 0, wrong)}]


def average_precision(score: np.ndarray, wrong: np.ndarray) -> float:
    """The mean, over the wrong ones, of the precision of all down to them; unknown scores are the last."""
    hits = wrong[np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def ranked(score: np.ndarray, wrong: np.ndarray) -> Row:
    return {"average_precision": f"{average_precision(score, wrong):.4f}"}


def found(flagged: np.ndarray, wrong: np.ndarray) -> Row:
    both = (flagged & wrong).sum()
    shares = {"suspected": flagged.mean(), "precision": both / max(flagged.sum(), 1), "recall": both / wrong.sum()}
    return {name: f"{share:.4f}" for name, share in shares.items()}


def standardised(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The values, with the mean 0 and the deviation 1 in each class."""
    made = values.astype(np.float64)
    for label in np.unique(labels):
        own = values[labels == label]
        made[labels == label] = (own - np.nanmean(own)) / np.nanstd(own)
    return made


def judged_by_cleanlab(probabilities: np.ndarray, labels: np.ndarray, wrong: np.ndarray) -> list[Row]:
    """How well its scores and filters find what is wrong by out-of-sample probabilities, (N, C)."""
    from cleanlab.filter import find_label_issues  # late: not all have it  # pyright: ignore[reportMissingImports]
    from cleanlab.rank import get_label_quality_scores  # pyright: ignore[reportMissingImports]

    rows = list[Row]()
    for name, adjusted in [*product(QUALITIES[:2], (False, True)), (QUALITIES[2], False)]:
        quality = get_label_quality_scores(labels, probabilities, method=name, adjust_pred_probs=adjusted)
        rows.append({"score": name + "_adjusted" * adjusted, **ranked(-quality, wrong)})
    for name in FILTERS:
        flagged = find_label_issues(labels, probabilities, filter_by=name, n_jobs=1)  # pyright: ignore[reportArgumentType]
        rows.append({"score": name, **found(np.asarray(flagged), wrong)})
    return rows
