"""The thesis's claims one by one, and what our runs say of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from thesis.comparison import as_text, interval, markdown_table
from thesis.evidence import Evidence
from thesis.printed import EPOCH
from thesis.tables import NEAR, RatioRow, Tables
from thesis.variance import LayerRow, NoiseRow

HOLDS, WEAKER, OPEN, CONTRADICTED = "holds", "weaker", "open", "contradicted"
_OF_RATIO = {"holds": HOLDS, "stronger": HOLDS, "weaker": WEAKER, "open": OPEN, "does not hold": CONTRADICTED}
RULE = (
    "A claim *holds* if it does in every setting, in size as in direction; it is *weaker* if its direction does, and "
    "its size does not in all of them; it is *contradicted* if it is in half of the settings or more; and else it is "
    "*open*."
)


class Claim(NamedTuple):
    """One claim, and what is found."""

    text: str
    """What the thesis says."""
    place: str
    """Where it says so."""
    verdict: str
    ours: str
    """The figures."""
    runs: str
    """How many trainings it is judged by."""


def claims(tables: Tables, evidence: Evidence, noise: Sequence[NoiseRow], layer: Sequence[LayerRow]) -> list[Claim]:
    """All claims on which there are runs, in the thesis's order."""
    found = [
        _cost(evidence.claims, "uniform", "lower training cost than uniform sampling, in five settings of six"),
        _cost(evidence.claims, "OBS", "lower training cost than online batch selection, in five settings of six"),
        _adam_64(evidence.claims),
        _accuracy(tables),
        _collapse(evidence, "adam", "P collapses with Adam at batch 64", "Figure 24", said=True),
        _collapse(evidence, "adadelta", "P does not collapse with Adadelta at batch 64", "Figure 26", said=False),
        _search(tables),
        _variance(noise),
        _bound(layer),
        _score(layer),
    ]
    return [claim for claim in found if claim is not None]


def claims_table(rows: Sequence[Claim]) -> str:
    """As Markdown."""
    lines = [[row.text, row.place, f"**{row.verdict}**", row.ours, row.runs] for row in rows]
    return markdown_table(["the thesis says of AS", "in", "ours", "what was found", "trainings"], lines)


def overall(verdicts: Sequence[str]) -> str:
    """One verdict of those of the settings, by :data:`RULE`."""
    counts = Counter(verdicts)
    if counts[CONTRADICTED] * 2 >= len(verdicts):
        return CONTRADICTED
    if counts[HOLDS] == len(verdicts):
        return HOLDS
    return WEAKER if counts[HOLDS] + counts[WEAKER] == len(verdicts) else OPEN


def _cost(rows: Sequence[RatioRow], against: str, text: str) -> Claim | None:
    """Of the settings in which the thesis says so; by means, and beside them by medians."""
    said = [row for row in rows if row.against == against and row.printed < 1]
    own = {statistic: [row for row in said if row.statistic == statistic] for statistic in ("mean", "median")}
    if not own["mean"]:
        return None
    counts = {
        statistic: ", ".join(f"{name} {n}" for name, n in Counter(row.verdict for row in found).items())
        for statistic, found in own.items()
    }
    ours = f"of {len(own['mean'])} settings by mean costs: {counts['mean']}; by median costs: {counts['median']}"
    return Claim(
        text, "Tables 3, 4", overall([_OF_RATIO[row.verdict] for row in own["mean"]]), ours, _runs(own["mean"])
    )


def _adam_64(rows: Sequence[RatioRow]) -> Claim | None:
    """The setting in which the thesis's method fails."""
    own = [row for row in rows if row.printed > 1 and row.statistic == "mean"]
    if not own:
        return None
    verdicts = {_OF_RATIO[row.verdict] for row in own}
    parts = [f"over {row.against} {interval(row.ours)} (thesis {as_text(row.printed, 3)})" for row in own]
    return Claim(
        "fails with Adam at batch 64: above uniform sampling, and far above OBS",
        "Table 4",
        HOLDS if verdicts <= {HOLDS} else WEAKER if verdicts & {HOLDS, WEAKER} else CONTRADICTED,
        "; ".join(parts),
        _runs(own),
    )


def _accuracy(tables: Tables) -> Claim | None:
    rows = [row for row in tables.accuracies if row.ours.runs]
    if not rows:
        return None
    counts = Counter(row.verdict for row in rows)
    verdicts = [CONTRADICTED if row.verdict.startswith("does not") else row.verdict for row in rows]
    ours = f"of {len(rows)} tests: " + ", ".join(f"{name} {n}" for name, n in counts.items())
    runs = " and ".join(dict.fromkeys(f"{row.ours.runs} each" for row in rows))
    return Claim("test accuracy like that of the others", "Table 2", overall(verdicts), ours, runs)


def _collapse(evidence: Evidence, optimizer: str, text: str, place: str, said: bool) -> Claim | None:
    """Of P at batch 64; `said` is whether the thesis says that it collapses."""
    rows = [row for row in evidence.collapses if (row.arm, row.optimizer, row.batch_size) == ("AS", optimizer, 64)]
    if not rows:
        return None
    collapsed = [row for row in rows if row.collapsed_since is not None]
    as_said = len(collapsed) if said else len(rows) - len(collapsed)
    verdict = OPEN if len(rows) == 1 or 0 < as_said < len(rows) else HOLDS if as_said else CONTRADICTED
    since = ", ".join(f"epoch {row.collapsed_since}" for row in collapsed)
    shortest, longest = (end(row.epochs for row in rows) for end in (min, max))
    lengths = str(longest) if shortest == longest else f"{shortest} to {longest}"
    ours = f"for good in {len(collapsed)} of {len(rows)} trainings of {lengths} epochs" + (
        f", since {since}" if since else ""
    )
    return Claim(text, place, verdict, ours, str(len(rows)))


def _search(tables: Tables) -> Claim | None:
    rows = [row for row in tables.searches if row.points]
    if not rows:
        return None
    counts = Counter(row.verdict for row in rows)
    verdicts = [CONTRADICTED if row.verdict == "does not hold" else row.verdict for row in rows]
    ours = f"of {len(rows)} searches: " + ", ".join(f"{name} {n}" for name, n in counts.items())
    noise = f"a single run swings by a factor of {NEAR}, so that none of it is sure"
    text = "δp = 0.9 and δq = 0.1 are among the best, but with Adam at 64, where most diverge"
    return Claim(text, "Figures 13 to 19", overall(verdicts), f"{ours}; {noise}", "1 of each point")


def _variance(noise: Sequence[NoiseRow]) -> Claim | None:
    own = [row for row in noise if row.arm == "AS"]
    if not own:
        return None
    verdicts, better = [], 0
    for row in own:
        below = row.middle.high is not None and row.middle.high < 1
        above = row.middle.low is not None and row.middle.low > 1
        better += below
        verdicts.append(HOLDS if below else CONTRADICTED if above else OPEN)
    values = [row.middle.value or 0.0 for row in own]
    ours = (
        f"over uniform sampling's, medians of {as_text(min(values))} to {as_text(max(values))}; below 1 in all "
        f"trainings of {better} settings of {len(own)}"
    )
    runs = " and ".join(dict.fromkeys(f"{row.middle.runs} each" for row in own))
    return Claim(
        "the gradient estimate has less variance", "section 4.5, Figures 27, 28", overall(verdicts), ours, runs
    )


def _bound(layer: Sequence[LayerRow]) -> Claim | None:
    found = {(row.optimizer, row.quantity): row for row in layer if row.arm == "uniform"}
    rows = [found[key] for key in found if key[1] == "rank_bound_norm"]
    if not rows:
        return None
    trained = [row.trained.value or 0.0 for row in rows]
    before = [row.untrained.value or 0.0 for row in rows]
    ours = (
        f"rank correlation {as_text(min(trained), 3)} or more once trained for an epoch, {as_text(min(before))} before"
    )
    verdict = HOLDS if min(trained) > 0.9 else OPEN
    runs = " and ".join(dict.fromkeys(f"{row.trained.runs} each" for row in rows))
    return Claim("‖softmax(z) − y‖ stands for the norm of the whole gradient", "eq. (59)", verdict, ours, runs)


def _score(layer: Sequence[LayerRow]) -> Claim | None:
    rows = [row for row in layer if row.arm == "uniform" and row.quantity == "rank_loss_bound"]
    if not rows:
        return None
    values = [row.trained.value or 0.0 for row in rows]
    ours = f"rank correlation of loss and bound {as_text(min(values), 4)} or more"
    runs = " and ".join(dict.fromkeys(f"{row.trained.runs} each" for row in rows))
    verdict = HOLDS if min(values) > 0.9 else OPEN
    return Claim("the loss does as well as the norm as a score for Q", "section 4.2", verdict, ours, runs)


def _runs(rows: Sequence[RatioRow]) -> str:
    return " and ".join(dict.fromkeys(f"{row.ours.runs} pairs, {row.epoch or EPOCH} epochs" for row in rows))
