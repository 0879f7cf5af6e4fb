import pytest

from benchmarks.budgets.rivals import RIVALS, UNIFORM, make, parse, specification
from lightning_as import InfoBatch, OnlineBatchSelection


def test_every_name_stands_for_a_strategy_and_uniform_for_none():
    assert make(UNIFORM) is None
    assert specification(UNIFORM) == ""
    assert all(make(rival) is not None for rival in RIVALS if rival != UNIFORM)


def test_a_strategy_that_is_written_out_has_its_options_and_one_way_of_writing():
    strategy = make(" OnlineBatchSelection( s_start=1e2,first_pass = 'shuffled' )")
    assert isinstance(strategy, OnlineBatchSelection)
    assert (strategy.s_start, strategy.first_pass) == (100.0, "shuffled")
    written = [
        specification(text) for text in ("InfoBatch(prune_share=.5, delta=1)", "InfoBatch(delta=1,prune_share=0.5)")
    ]
    assert written == ["InfoBatch(delta=1, prune_share=0.5)"] * 2
    assert isinstance(make(written[0]), InfoBatch)
    assert parse("InfoBatch()") == ("InfoBatch", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unknown", "neither one of uniform"),
        ("InfoBatch(", "neither one of uniform"),
        ("os.system('true')", "neither one of uniform"),
        ("Strategy()", "no strategy Strategy"),
        ("Scores()", "no strategy Scores"),
        ("print(x=1)", "no strategy print"),
        ("InfoBatch(0.5)", "by their names"),
        ("InfoBatch(**{'delta': 1})", "by their names"),
        ("InfoBatch(delta=print())", "literals"),
        ("InfoBatch(gamma=1)", "cannot be made.*gamma"),
        ("InfoBatch(delta=2)", "delta"),
    ],
)
def test_anything_else_is_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        make(text)
