from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback, ClosenessSampling, OnlineBatchSelection, compare
from lightning_as.comparison.compare import Comparison
from lightning_as.comparison.results import Results
from tests.helpers.tiny import EPOCH, Tiny, TinyData

SETTING = {"accelerator": "cpu", "max_epochs": 2, "callbacks": [AdaptiveSamplingCallback(logits_from="net")]}


def wrapped() -> AdaptiveDataModule:
    return AdaptiveDataModule(TinyData())


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Comparison]:
    """A comparison in which a strategy has time for half of the steps, or for the share that is given."""

    def compared(module: Any = Tiny, share: float = 0.5, strategies: Any = None, seeds: Any = (0, 1), **more: Any):
        monkeypatch.setattr("lightning_as.comparison.compare.equal_time_share", lambda *_, steps: share)
        strategies = [ClosenessSampling()] if strategies is None else strategies
        given = {"data": wrapped, "trainer": SETTING, "out": tmp_path / "out", **more}
        return compare(module, strategies=strategies, seeds=seeds, **given)

    return compared


class Counted(Tiny):
    """Counts the fits that were begun with each learning rate, and not ended after two batches."""

    fits: ClassVar[Counter[float]] = Counter()

    def on_train_end(self) -> None:
        self.fits[self.lr] += self.trainer.global_step > 2


@pytest.fixture(autouse=True)
def anew() -> None:
    Counted.fits = Counter()


def test_all_rivals_and_budgets_are_run_and_what_is_done_is_not_run_again(compared: Any, tmp_path: Path):
    found = compared(Counted)
    assert [(run.rival, run.seed, run.budget, run.trial.steps) for run in Results(tmp_path / "out").runs] == [
        *((rival, seed, "steps", 2 * EPOCH) for seed in (0, 1) for rival in ("uniform", "ClosenessSampling")),
        *(("ClosenessSampling", seed, "time", EPOCH) for seed in (0, 1)),
    ]
    assert Counted.fits == {0.1: 6}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"results.csv", "report.md", "compare.png"}
    assert [len(row.differences) for row in found.rows] == [0, 2, 2]
    assert found.table() in (tmp_path / "out" / "report.md").read_text()
    again = compared(Counted)
    assert Counted.fits == {0.1: 6}
    assert again.table() == found.table()
    more = compared(Counted, seeds=(0, 1, 2), strategies=[ClosenessSampling(), OnlineBatchSelection()])
    assert Counted.fits == {0.1: 6 + 3 + 6}
    assert len(more.verdict.splitlines()) == 2
    assert more.notes == []


def test_a_lost_run_comes_back_as_it_was(compared: Any, tmp_path: Path):
    table = compared().runs
    path = tmp_path / "out" / "results.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))
    again = compared().runs
    assert [run.trial.metrics for run in again] == [run.trial.metrics for run in table]
    assert len(path.read_text().splitlines()) == len(lines)


def test_another_setting_has_runs_of_its_own(compared: Any):
    compared(Counted, seeds=[0])
    found = compared(lambda: Counted(lr=0.2), seeds=[0])
    assert Counted.fits == {0.1: 3, 0.2: 3}
    assert found.notes == ["3 runs in results.csv are of other settings, seeds or shares, and do not count here."]


def test_runs_of_another_equal_time_are_made_anew_and_those_of_the_same_are_not(compared: Any):
    compared(Counted)
    assert {run.trial.steps for run in compared(Counted, seeds=(0, 1, 2), share=0.503).runs[-3:]} == {EPOCH}
    assert Counted.fits == {0.1: 6 + 3}
    found = compared(Counted, seeds=(0, 1, 2), share=0.85)
    assert {run.trial.steps for run in found.runs if run.budget == "time"} == {10}
    assert found.notes == ["3 runs in results.csv are of other settings, seeds or shares, and do not count here."]
    assert Counted.fits == {0.1: 6 + 3 + 3}
    assert compared(Counted).rows[2].steps == EPOCH
    assert Counted.fits == {0.1: 6 + 3 + 3}


def test_where_time_and_steps_are_the_same_one_run_serves_for_both(compared: Any):
    found = compared(Counted, share=1.0)
    assert Counted.fits == {0.1: 4}
    assert found.rows[1].differences == found.rows[2].differences


def test_the_sentence_is_about_the_metric_that_was_chosen(compared: Any):
    class Accurate(Tiny):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.log("val/accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    assert "points of val/accuracy over 2 seeds" in compared(Accurate).verdict
    assert "of val/loss over 2 seeds" in compared(Accurate, monitor="val/loss").verdict
    assert compared(Accurate, seeds=[1]).verdict.startswith("One seed says little: ClosenessSampling less uniform")
    with pytest.raises(ValueError, match=r"`monitor` is 'val/acc', .* did you mean `val/accuracy`\? Logged are"):
        compared(Accurate, monitor="val/acc")


def test_a_figure_that_is_not_finite_is_said_and_not_averaged(compared: Any):
    class Diverges(Tiny):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", torch.tensor(float("nan")))

    found = compared(Diverges, seeds=[0])
    assert found.verdict.endswith("val/loss of one of the two is not finite with its seed.")


def test_one_that_is_broken_off_says_how_to_go_on_and_does(compared: Any, tmp_path: Path):
    class Broken(Counted):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.fits[0.1] == 2 and self.trainer.global_step > 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"Broken off. 2 runs are in .*results.csv: the same call goes on"):
        compared(Broken)
    Counted.fits[0.1] = 10
    Broken.on_train_batch_end = Tiny.on_train_batch_end
    compared(Broken)
    assert Counted.fits == {0.1: 14}


def test_one_that_ends_early_is_noted(compared: Any):
    class Ends(Tiny):
        def on_train_batch_end(self, *_: Any) -> None:
            adaptive = len(self.trainer.callbacks) > 2  # pyright: ignore
            self.trainer.should_stop |= adaptive and self.trainer.global_step == 5

    (note,) = compared(Ends, seeds=[0]).notes
    assert note.startswith("Runs at equal steps have from 5 to 12 steps: something ended them early")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seeds": []}, ValueError, "`seeds` must be a list of at least one"),
        ({"seeds": 3}, ValueError, "`seeds` must be a list of at least one, .* got 3"),
        ({"seeds": [0, 0]}, ValueError, "`seeds` has one twice"),
        ({"seeds": [-1]}, ValueError, "`seeds` must be at least 0, got -1"),
        ({"seeds": [0.5]}, TypeError, "`seeds` must be an integer"),
        ({"mode": "more"}, ValueError, "`mode` must be one of max, min; got 'more'"),
        ({"strategies": []}, ValueError, "`strategies` is empty"),
        ({"trainer": {**SETTING, "limit_val_batches": 0}}, ValueError, "Validation logs nothing"),
    ],
)
def test_bad_input_fails_before_the_first_run(compared: Any, options: dict, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        compared(Counted, **options)
    assert Counted.fits.total() == 0
