"""Which of the figures that validation logs decides, and whether more of it is better."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

Mode = Literal["max", "min"]

_MORE = re.compile("acc|accuracy|auc|auroc|auprc|ap|map|precision|recall|f1|m?iou|dice|jaccard|r2|bleu|rouge")
_LESS = re.compile("loss|error|err|mse|mae|rmse|mape|nll|perplexity|ppl|ece|wer|cer|cost|entropy")


def choose_monitor(logged: Iterable[str], monitor: str | None, mode: Mode | None) -> tuple[str, Mode]:
    """What decides, and which way.

    Args:
        logged: Names of what validation logs.
        monitor: One of them. Default: the only one of which more is better by its name; if there is none such, the only
            one of which less is.
        mode: ``"max"`` if more is better, ``"min"`` if less is. Default: by the name.

    Raises:
        ValueError: If that leaves it open, with what is logged.
    """
    names = sorted(logged)
    if not names:
        raise ValueError(
            "Validation logs nothing, so that there is nothing to compare: give the data a `val_dataloader`, leave out "
            "`limit_val_batches=0`, and log a figure in `validation_step`, such as `self.log('val/accuracy', …)`."
        )
    listed = ", ".join(names)
    if monitor is None:
        found = [[name for name in names if direction(name) == way] for way in ("max", "min")]
        likely = found[0] or found[1] or names
        if len(likely) != 1:
            raise ValueError(f"`monitor` must say which of these is to decide: {listed}.")
        monitor = likely[0]
    elif monitor not in names:
        nearest = get_close_matches(monitor, names, 1)
        hint = f"did you mean `{nearest[0]}`? Logged are" if nearest else "logged are"
        raise ValueError(f"`monitor` is {monitor!r}, which validation does not log: {hint} {listed}.")
    mode = mode or direction(monitor)
    if mode is None:
        raise ValueError(f"`mode` must say whether more of {monitor} is better, 'max', or less, 'min'.")
    return monitor, mode


def direction(name: str) -> Mode | None:
    """Whether more or less of a figure is better, by the words in its name; None if they do not tell."""
    words = re.split("[^a-z0-9]+", name.lower())
    more, less = (any(map(kind.fullmatch, words)) for kind in (_MORE, _LESS))
    return None if more == less else "max" if more else "min"
