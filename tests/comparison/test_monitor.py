import pytest

from lightning_as.comparison.monitor import choose_monitor, direction


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("val/accuracy", "max"),
        ("val_top1_acc", "max"),
        ("valid/average_precision", "max"),
        ("val_mIoU", "max"),
        ("val/loss", "min"),
        ("val_rmse", "min"),
        ("val/accuracy_loss", None),
        ("val/score", None),
        ("val/mapping", None),
    ],
)
def test_the_words_of_a_name_tell_which_way_is_better(name: str, way: str | None):
    assert direction(name) == way


@pytest.mark.parametrize(
    ("logged", "monitor", "mode", "chosen"),
    [
        (["val/loss", "val/accuracy"], None, None, ("val/accuracy", "max")),
        (["val/loss"], None, None, ("val/loss", "min")),
        (["val/loss", "epoch_time"], None, None, ("val/loss", "min")),
        (["val/score"], None, "max", ("val/score", "max")),
        (["val/loss", "val/accuracy"], "val/loss", None, ("val/loss", "min")),
        (["val/loss"], "val/loss", "max", ("val/loss", "max")),
    ],
)
def test_what_decides(logged: list[str], monitor: str | None, mode, chosen: tuple[str, str]):
    assert choose_monitor(logged, monitor, mode) == chosen


@pytest.mark.parametrize(
    ("logged", "monitor", "message"),
    [
        ([], None, "Validation logs nothing, .* `val_dataloader`"),
        (["val/acc", "val/f1"], None, "`monitor` must say which of these is to decide: val/acc, val/f1"),
        (["a", "b"], None, "must say which of these is to decide: a, b"),
        (
            ["val/accuracy", "val/loss"],
            "val/acuracy",
            r"did you mean `val/accuracy`\? Logged are val/accuracy, val/loss",
        ),
        (["val/loss"], "x", "`monitor` is 'x', which validation does not log: logged are val/loss"),
        (["val/score"], None, "`mode` must say whether more of val/score is better"),
    ],
)
def test_what_leaves_it_open_is_refused(logged: list[str], monitor: str | None, message: str):
    with pytest.raises(ValueError, match=message):
        choose_monitor(logged, monitor, None)
