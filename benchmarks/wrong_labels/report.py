"""The table of runs, as a page and as figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

Key = tuple[str, str, str, int]


def summed(rows: Sequence[Mapping[str, object]]) -> dict[Key, dict[str, float]]:
    """The means over the seeds of what is known, by set, method, score and epoch."""
    groups: dict[Key, list[Mapping[str, object]]] = {}
    for row in rows:
        key = str(row["set"]), str(row["method"]), str(row["score"]), int(str(row["epoch"]))
        groups.setdefault(key, []).append(row)
    names = ("average_precision", "suspected", "precision", "recall", "wrong", "seconds")
    return {
        key: {
            "seeds": float(len(group)),
            **{name: statistics.mean(float(str(row[name])) for row in group) for name in names if group[0][name] != ""},
        }
        for key, group in groups.items()
    }


def markdown(found: Mapping[Key, Mapping[str, float]]) -> str:
    """A table of each set at the last epoch of each method, and one of the ranking after each epoch."""
    lines = ["# Suspected wrong labels", "", "Made by `python benchmarks/suspects.py --report`; means over the seeds."]
    for name in dict.fromkeys(key[0] for key in found):
        own = {key[1:]: value for key, value in found.items() if key[0] == name}
        last = {method: max(epoch for other, _, epoch in own if other == method) for method, _, _ in own}
        wrong = next(iter(own.values()))["wrong"]
        lines += [
            "",
            f"## {name}: {wrong:.1%} are wrong",
            "",
            "| method | epochs | seeds | processor s | score or rule ",
        ]
        lines[-1] += "| average precision | suspected | precision | recall |"
        lines.append("|---|---|---|---|---|---|---|---|---|")
        for (method, score, epoch), value in own.items():
            if epoch == last[method]:
                figures = [value.get(each) for each in ("average_precision", "suspected", "precision", "recall")]
                cells = ["" if figure is None else f"{figure:.3f}" for figure in figures]
                start = [method, str(epoch), f"{value['seeds']:.0f}", f"{value['seconds']:.0f}", score]
                lines.append(f"| {' | '.join(start + cells)} |")
        epochs = sorted({epoch for _, score, epoch in own if score == "suspects"})
        lines += ["", "Average precision of `suspects()` after each epoch:", ""]
        lines += ["| method | " + " | ".join(map(str, epochs)) + " |", "|---" * (len(epochs) + 1) + "|"]
        for method in dict.fromkeys(method for method, score, _ in own if score == "suspects"):
            values = [own.get((method, "suspects", epoch), {}).get("average_precision") for epoch in epochs]
            lines.append(f"| {method} | " + " | ".join("" if one is None else f"{one:.3f}" for one in values) + " |")
    return "\n".join(lines) + "\n"


def figures(found: Mapping[Key, Mapping[str, float]]) -> dict[str, float]:
    """Of each set and method, at its last epoch: the ranking, and what is suspected; the best of cleanlab's."""
    made = dict[str, float]()
    for name, method, _, _ in found:
        last = max(epoch for first, other, _, epoch in found if (first, other) == (name, method))
        own = {key[2]: value for key, value in found.items() if key[:2] == (name, method) and key[3] == last}
        chosen = own.values() if method == "cleanlab" else [own["suspects"]]
        made[f"{name}/{method}/average_precision"] = max(one.get("average_precision", 0.0) for one in chosen)
        if method != "cleanlab":
            made |= {f"{name}/{method}/{each}": own["suspects"][each] for each in ("precision", "recall", "suspected")}
    return {key: round(value, 4) for key, value in made.items()}
