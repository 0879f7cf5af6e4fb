import math
from typing import Any

import numpy as np
import pytest
import torch

from lightning_as import AdaptiveSampling, Bins, ClosenessSampling, RHOLoss, Strategy, Uniform
from lightning_as.report.sections import (
    LARGEST,
    Facts,
    bin_names,
    in_percent,
    label_name,
    options_of,
    plots,
    times_as_often,
    watched,
)
from lightning_as.report.series import Series


def facts(strategy: Strategy, bins: Bins, known: bool = True, noted: bool = True) -> Facts:
    strategy.start(bins)
    size, series = len(bins), Series()
    if noted:
        figures = {"ess": 0.5, "gain": 2.0, "loss": 1.0} if known else {}
        series.note(1, figures, lambda: times_as_often(strategy))
    whole = np.arange(size) + 0.5 if known else np.full(size, np.nan)
    columns = {"bin": bins.tags.numpy(), "drawn": np.arange(size)}
    columns |= {name: whole for name in ("confidence", "variability", "learnt", "forgotten")}
    return Facts(strategy, columns, series, {}, [], [])


def reasons(given: Facts) -> dict[str, str]:
    """Why there is no figure, where there is none."""
    return {plot.key: plot.text for plot in plots(given) if plot.figure is None}


def test_what_is_known_is_drawn_and_of_what_is_not_the_reason_is_told():
    bins = Bins([0, 1, 1, 0])
    assert reasons(facts(Uniform(), bins)) == {}
    without = reasons(facts(Uniform(), bins, known=False))
    assert sorted(without) == ["data_map", "ess", "gain", "loss"]
    assert "index samplers" in without["gain"]
    assert "AdaptiveSamplingCallback(logits_from=…)" in without["data_map"]
    endless = facts(Uniform(), bins)
    endless.series.load_state_dict(endless.series.state_dict() | {"figures": [[math.inf] * 4]})
    assert sorted(reasons(endless)) == ["ess", "gain", "loss"]
    assert "Nothing was noted" in reasons(facts(Uniform(), bins, noted=False))["bins"]
    single = reasons(facts(Uniform(), Bins.single(4)))
    assert sorted(single) == ["bins", "draws"]
    assert "1.5 draws" in single["draws"]


def test_the_sentences_have_the_table_s_numbers():
    told = {plot.key: plot.text for plot in plots(facts(Uniform(), Bins([0, 1] * 10)))}
    assert "most drawn tenth of the examples has 19% of all draws" in told["lorenz"]  # (18 + 19) / 190
    assert "5.0% of the examples were never drawn" in told["lorenz"]
    assert "100.0% were forgotten" in told["data_map"]
    selector = RHOLoss(torch.zeros(4))
    assert "of the candidates" in {plot.key: plot.text for plot in plots(facts(selector, Bins([0, 1, 1, 0])))}["bins"]


def test_few_are_not_none():
    assert [in_percent(share) for share in (0.0, 1e-5, 0.0005, 0.1234, 1.0)] == [
        "0.0%",
        "<0.1%",
        "0.1%",
        "12.3%",
        "100.0%",
    ]


def test_bins_are_compared_with_uniform_draws_and_of_very_many_the_largest_are_watched():
    strategy = AdaptiveSampling(floor=0.0)
    strategy.start(Bins([0, 1, 1, 1]))
    torch.testing.assert_close(times_as_often(strategy), strategy.bin_probabilities * torch.tensor([4.0, 4 / 3]))
    uniform = Uniform()
    many = LARGEST + 50
    uniform.start(Bins([*range(many), *range(10, many)]))
    assert watched(uniform).tolist() == list(range(10, 10 + LARGEST))
    torch.testing.assert_close(times_as_often(uniform), torch.ones(LARGEST, dtype=torch.float64))
    told = next(plot for plot in plots(facts(Uniform(), uniform.bins)) if plot.key == "bins")
    assert f"Of {many} bins these are the {LARGEST} largest" in told.text


def test_bins_that_are_classes_have_their_names():
    given = facts(Uniform(), Bins.from_labels([3, 5, 5]))._replace(classes={5: "a name that is far too long"})
    assert bin_names(given, [0, 1]) == ["label 3", "5 a name that is …"]
    assert bin_names(facts(Uniform(), Bins([0, 1])), [1]) == ["bin 1"]
    assert [label_name(label, {1: "one"}) for label in (1.0, 2.0, float("nan"))] == ["1 one", "2", "not known"]


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        (Uniform(), "Uniform(replacement=False)"),
        (RHOLoss(torch.zeros(3), keep=0.5), "RHOLoss()"),  # neither a tensor nor what is kept in another form
        (AdaptiveSampling(score=["loss", "gradient"]), "score=['loss', 'gradient']"),
        (ClosenessSampling(pressure=30), "ClosenessSampling(pressure=30, gamma='follow'"),
    ],
)
def test_a_strategy_is_told_with_its_options(strategy: Any, told: str):
    assert told in options_of(strategy)
