from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    TQDMProgressBar,
)

from lightning_as import (
    AdaptiveSampling,
    AdaptiveSamplingCallback,
    Bins,
    ClosenessSampling,
    OnlineBatchSelection,
    SelectiveBackprop,
    Uniform,
)
from lightning_as.comparison.rivals import Rival, describe_strategy, make_rivals
from lightning_as.strategies.cards import cards
from tests.helpers.catalogue import CATALOGUE


def test_strategies_are_named_by_what_they_are():
    given = [ClosenessSampling(), OnlineBatchSelection(s_start=50), AdaptiveSampling(floor=0.0, beta=3)]
    names = [rival.name for rival in make_rivals(given, [])]
    assert names[0] == "uniform"
    assert names[1:] == [
        "ClosenessSampling",
        "OnlineBatchSelection(s_start=50)",
        "AdaptiveSampling(beta=3, floor=0.0)",
    ]
    assert [rival.name for rival in make_rivals({"mine": ClosenessSampling()}, [])] == ["uniform", "mine"]
    plain = {make().__class__ for make in CATALOGUE.values()}
    for card in cards():
        if card.kind == "stream filter":  # which cannot be compared
            continue
        (kind,) = (one for one in plain if one.__name__ == card.name)
        if card.name != "RHOLoss":  # which cannot be made without losses
            assert describe_strategy(kind()) == card.name


def test_without_strategies_it_is_that_of_the_callback_or_the_default():
    own = AdaptiveSamplingCallback(OnlineBatchSelection(s_start=50))
    assert [rival.name for rival in make_rivals(None, [own])][1:] == ["OnlineBatchSelection(s_start=50)"]
    assert [rival.name for rival in make_rivals(None, [])][1:] == ["ClosenessSampling"]


def test_callbacks_of_ones_own_stay_and_what_writes_goes(tmp_path: Path):
    early = EarlyStopping("val/loss", patience=7)
    own = AdaptiveSamplingCallback(logits_from="net", weights="none", examples=str(tmp_path / "examples.csv"))
    silent = [ModelCheckpoint(), ModelSummary(), TQDMProgressBar()]
    given = [*silent, own, early, LearningRateMonitor()]
    strategy = Uniform()
    callback, *others = Rival("mine", strategy).callbacks(given)
    assert isinstance(callback, AdaptiveSamplingCallback)
    assert (callback.options.logits_from, callback.options.weights) == ("net", "none")
    assert callback.examples_path is None
    assert own.examples_path == tmp_path / "examples.csv"
    assert isinstance(callback.strategy, Uniform)
    assert callback.strategy is not strategy
    assert [type(one) for one in others] == [EarlyStopping, LearningRateMonitor]
    copied: Any = others[0]
    assert (copied.patience, copied is early) == (7, False)
    assert [type(one) for one in Rival("uniform", None).callbacks(given)] == [EarlyStopping, LearningRateMonitor]


def at_work() -> Uniform:
    strategy = Uniform()
    strategy.start(Bins.single(3))
    return strategy


@pytest.mark.parametrize(
    ("strategies", "error", "message"),
    [
        ([], ValueError, "`strategies` is empty"),
        (Uniform(), TypeError, "`strategies` must be a list"),
        ([Uniform], TypeError, r"must hold objects such as ClosenessSampling\(\), got <class"),
        ([at_work()], ValueError, "has a Uniform that has been at work in a fit: give a new one"),
        ([Uniform(), Uniform()], ValueError, "two rivals of the name 'Uniform': give a dict"),
        ({"uniform": Uniform()}, ValueError, "two rivals of the name 'uniform'"),
    ],
)
def test_what_is_no_rival_is_refused(strategies: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make_rivals(strategies, [])


def test_options_of_the_callback_must_go_with_the_strategy():
    own = AdaptiveSamplingCallback(Uniform(), weights="unbiased")
    with pytest.raises(ValueError, match="`weights='unbiased'` go by the probability"):
        Rival("SelectiveBackprop", SelectiveBackprop()).callbacks([own])
