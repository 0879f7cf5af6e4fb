import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_as import AdaptiveDataModule, AdaptiveSampling, AdaptiveSamplingCallback, SamplingReport
from lightning_as.report import callback
from tests.helpers.pictures import BATCH, NAMES, SIZE, PictureData, PictureNet, Pictures
from tests.helpers.statistics import saved
from tests.helpers.tiny import Fitted, refused, tiny_fit, tiny_trainer

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")
STEPS = SIZE // BATCH  # of an epoch


def fit(tmp_path: Path, callbacks: tuple[Callback, ...] = (), make: Any = PictureNet, **options: Any) -> Fitted:
    """A fit with a report of pictures, which is at the end of the callbacks."""
    report = SamplingReport(tmp_path / "report.html")
    defaults = {"data": AdaptiveDataModule(PictureData()), "log_every_n_steps": 1, "max_epochs": 3}
    return tiny_fit(
        tmp_path,
        options.pop("sampling", AdaptiveSampling()),
        make,
        callbacks=(*callbacks, report),
        **{**defaults, **options},
    )


def page(tmp_path: Path) -> str:
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def report_of(fitted: Fitted) -> SamplingReport:
    return next(one for one in fitted.trainer.callbacks if isinstance(one, SamplingReport))


def adaptive_of(fitted: Fitted) -> AdaptiveSamplingCallback:
    return next(one for one in fitted.trainer.callbacks if isinstance(one, AdaptiveSamplingCallback))


def listed(text: str) -> list[list[int]]:
    lists = re.findall(r"<ol .*?</ol>", text, re.DOTALL)
    return [[int(index) for index in re.findall(r'<li data-index="(\d+)">', one)] for one in lists]


class Watching(Callback):
    """What the page says when each epoch's first batch begins, and the figures after each batch."""

    def __init__(self, path: Path) -> None:
        self.path, self.said, self.gains = path, list[str](), list[float]()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 and self.path.exists():
            self.said += re.findall(r"In training, after [^.]*", self.path.read_text(encoding="utf-8"))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.gains.append(float(trainer.callback_metrics["adaptive/gain"]))


def test_the_page_is_of_the_table_and_written_after_each_epoch_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(callback, "PAUSE", 0.0)
    watching = Watching(tmp_path / "report.html")
    fitted = fit(tmp_path, (watching,))
    assert watching.said == ["In training, after 1 epoch", "In training, after 2 epochs"]
    text, table = page(tmp_path), adaptive_of(fitted).examples()
    assert "Training has ended, after 3 epochs." in text
    hard = table.sort_values("smoothed_loss", ascending=False, kind="stable")["index"][:36].tolist()
    suspects = adaptive_of(fitted).suspects()
    doubted = suspects[suspects["suspected"]]["index"][:36].tolist()
    assert listed(text) == [hard, doubted]
    assert sum(index % 10 == 0 for index in doubted) >= 8  # the wrong labels
    assert text.count('<img src="data:image/png') == sum(map(len, listed(text)))
    assert text.count("<svg") == 7
    assert "0 &lt;i&gt;zero&lt;/i&gt;" in text
    assert not any(name in text for name in NAMES[:2])
    assert f"<b>{3 * STEPS}</b> {SIZE * 3:,} draws" in text
    assert f"<b>{watching.gains[-1]:.2f} ×</b>" in text
    assert not list(tmp_path.glob(".*"))
    series = report_of(fitted).state_dict()
    assert series["at"] == list(range(1, 3 * STEPS + 1))
    np.testing.assert_allclose([row[1] for row in series["figures"]], watching.gains)
    p = fitted.strategy.bin_probabilities / torch.tensor(fitted.strategy.bins.sizes) * SIZE
    torch.testing.assert_close(series["bins"][-1], p.float())


class Breaking(PictureNet):
    after = 4

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_step == self.after:
            raise ValueError("a user's bug")
        return super().training_step(batch, batch_idx)


class Later(Breaking):
    after = 2 * STEPS + 1


@pytest.mark.usefixtures("undrawn")
def test_after_short_epochs_no_page_is_written_but_the_first_and_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(callback, "PAUSE", 1e9)
    watching, logger = Watching(tmp_path / "report.html"), with_add_figure(tmp_path)
    fit(tmp_path, (watching,), logger=logger)
    assert watching.said == ["In training, after 1 epoch"] * 2
    assert [step for name, step in sent(logger) if name == "sampling/draws"] == [STEPS, 3 * STEPS]
    assert "Training has ended, after 3 epochs." in page(tmp_path)
    with pytest.raises(ValueError, match="a user's bug"):
        fit(tmp_path, make=Later)
    assert "Broken off by ValueError, after 2 epochs." in page(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_a_trial_of_one_batch_leaves_the_page_that_is_there(tmp_path: Path):
    (tmp_path / "report.html").write_text("of a real fit")
    fit(tmp_path, fast_dev_run=True)
    assert page(tmp_path) == "of a real fit"


@pytest.mark.usefixtures("undrawn")
def test_a_fit_that_breaks_off_leaves_the_page_of_what_there_is_and_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ValueError, match="a user's bug"):
        fit(tmp_path, make=Breaking)
    assert "Broken off by ValueError, after 0 epochs." in page(tmp_path)
    assert f"<b>4</b> {4 * BATCH} draws" in page(tmp_path)
    monkeypatch.setattr(callback, "render", Mock(side_effect=RuntimeError("ours")))
    with pytest.raises(ValueError, match="a user's bug"):
        fit(tmp_path, make=Breaking)


def test_a_fit_that_breaks_off_before_anything_was_drawn_has_no_page(tmp_path: Path):
    class AtOnce(PictureNet):
        def on_train_start(self) -> None:
            raise ValueError("too early")

    with pytest.raises(ValueError, match="too early"):
        fit(tmp_path, make=AtOnce)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_resumed_fit_goes_on_with_what_was_noted(tmp_path: Path):
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=STEPS + 5, save_top_k=-1)
    whole = fit(tmp_path, (saving,))
    ended = page(tmp_path)
    rest = fit(tmp_path, ckpt_path=tmp_path / f"step={STEPS + 5}.ckpt", seed=1)
    one, other = (saved(report_of(fitted).state_dict()) for fitted in (whole, rest))
    assert torch.equal(one["bins"], other["bins"])
    assert one["at"] == other["at"]
    assert one["figures"][: STEPS + 5] == other["figures"][: STEPS + 5]  # what is logged has a window of its own
    assert listed(page(tmp_path)) == listed(ended)
    series = report_of(rest).state_dict()
    rest.trainer.test(rest.module, torch.utils.data.DataLoader(Pictures(), BATCH), ckpt_path=saving.best_model_path)
    assert report_of(rest).state_dict()["at"] == series["at"]  # those of a checkpoint are for a fit


@pytest.mark.usefixtures("undrawn")
def test_without_pictures_the_page_says_so(tmp_path: Path):
    tiny_fit(tmp_path, callbacks=(SamplingReport(tmp_path / "report.html"),))
    assert "neither pictures nor texts" in page(tmp_path)


class Failing(Pictures):
    """A data set that is read by the loader alone, in batches."""

    def __getitem__(self, index: int) -> Any:
        raise RuntimeError("one by one <never>")

    def __getitems__(self, indices: list[int]) -> Any:
        return [(self.pixels[index], self.targets[index]) for index in indices]


@pytest.mark.usefixtures("undrawn")
def test_a_data_set_that_cannot_be_read_breaks_nothing(tmp_path: Path):
    fit(tmp_path, data=AdaptiveDataModule(PictureData(Failing())), max_epochs=1)
    assert "could not be read from the data set, at first for this: RuntimeError: one by one &lt;never&gt;" in page(
        tmp_path
    )


class Broken(Failing):
    """One by one, texts of broken JSON; and a property that raises."""

    @property
    def classes(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise RuntimeError("no names")

    def __getitem__(self, index: int) -> Any:
        return "bad \ud83d tweet", self.targets[index]


@pytest.mark.usefixtures("undrawn")
def test_what_a_data_set_has_wrong_is_shown_as_well_as_can_be(tmp_path: Path):
    fit(tmp_path, data=AdaptiveDataModule(PictureData(Broken())), max_epochs=1)
    assert "<blockquote>bad ? tweet</blockquote><p><b>1</b>" in page(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_reading_samples_moves_no_random_state(tmp_path: Path):
    class Random(Pictures):
        def __getitem__(self, index: int) -> Any:
            pixels, label = super().__getitem__(index)
            return pixels ^ torch.randint(0, 2, pixels.shape, dtype=torch.uint8), label

    data = {"data": AdaptiveDataModule(PictureData(Random()))}
    reported = fit(tmp_path, **data, max_epochs=2)
    alone = tiny_fit(tmp_path, AdaptiveSampling(), PictureNet, **data, max_epochs=2)
    assert all(map(torch.equal, reported.module.state_dict().values(), alone.module.state_dict().values()))


def with_add_figure(tmp_path: Path) -> Mock:
    """A logger as TensorBoard's."""
    return Mock(spec=Logger, experiment=Mock(spec=["add_figure"]), save_dir=str(tmp_path))


def sent(logger: Mock) -> list[tuple[str, int]]:
    return [(call.args[0], call.args[2]) for call in logger.experiment.add_figure.call_args_list]


class Images(CSVLogger):
    """As W&B's logger takes images."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.images = list[tuple[str, int]]()

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        assert all(image.size > (100, 100) for image in images)
        self.images.append((key, step or 0))


@pytest.mark.usefixtures("undrawn")
def test_loggers_that_take_figures_get_them_and_others_are_left_alone(tmp_path: Path):
    images, figures = Images(tmp_path), with_add_figure(tmp_path)
    fit(tmp_path, logger=[images, figures, CSVLogger(tmp_path)], max_epochs=1)
    names = [f"sampling/{key}" for key in ("bins", "ess", "gain", "loss", "lorenz", "draws", "data_map")]
    assert images.images == [(name, STEPS) for name in names]
    assert sent(figures) == images.images


class Otherwise(Images):
    def log_image(self, key: str, image: Any, step: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise AssertionError("never called")


@pytest.mark.usefixtures("undrawn")
def test_a_logger_that_does_not_take_the_figures_is_warned_of_and_the_next_gets_them(tmp_path: Path):
    logger = with_add_figure(tmp_path)
    said = fit(tmp_path, logger=[Otherwise(tmp_path), logger], max_epochs=1).messages
    assert any("could not send its figures to Otherwise: TypeError: " in message for message in said)
    assert len(sent(logger)) == 7
    assert "Training has ended" in page(tmp_path)


def test_a_trainer_without_a_record_before_it_is_refused(tmp_path: Path):
    needs = "SamplingReport needs an AdaptiveSamplingCallback before it in the Trainer"
    report, adaptive = SamplingReport(tmp_path / "report.html"), AdaptiveSamplingCallback()
    unkept = [AdaptiveSamplingCallback(examples=False), report]
    for callbacks, message in (([report], needs), ([report, adaptive], needs), (unkept, "leave that argument out")):
        with refused(message):
            tiny_trainer(tmp_path, callbacks=callbacks).fit(PictureNet(), PictureData())


def test_what_cannot_be_written_or_drawn_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(TypeError, match="`path` must be the path of a file, got 3"):
        SamplingReport(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"report.pdf'` must end in \.html"):
        SamplingReport("report.pdf")
    for path in (tmp_path / "missing" / "report.html", tmp_path / "folder.html"):
        (tmp_path / "folder.html").mkdir(exist_ok=True)
        callbacks = [AdaptiveSamplingCallback(), SamplingReport(path)]
        with pytest.raises(OSError, match=f"{path.name}'` of SamplingReport cannot be written"):
            tiny_trainer(tmp_path, callbacks=callbacks).fit(PictureNet(), PictureData())
    monkeypatch.setattr(callback, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="with the extra `plots`"):
        SamplingReport("report.html")


@pytest.mark.usefixtures("undrawn")
def test_a_full_disk_or_a_fault_ends_no_fit_and_other_processes_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    failing = (Path, "write_text", OSError("no space left")), (callback, "render", RuntimeError("ours"))
    for owner, name, error in failing:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, Mock(side_effect=error))
            said = fit(tmp_path, max_epochs=1).messages
        assert any(f"report.html: {type(error).__name__}: {error}" in message for message in said)
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    fit(tmp_path, max_epochs=1)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_of_a_barebones_trainer_it_has_what_the_record_knows(tmp_path: Path):
    report = SamplingReport(tmp_path / "report.html")
    callbacks = [AdaptiveSamplingCallback(logits_from="net"), report]
    trainer = Trainer(barebones=True, max_epochs=2, callbacks=callbacks, accelerator="cpu")
    trainer.fit(PictureNet(), AdaptiveDataModule(PictureData()))
    text = page(tmp_path)
    assert text.count("Not known: it is logged of") == 3
    assert text.count("<svg") == 4
    assert report.state_dict()["at"] == [1, STEPS, STEPS + 1, 2 * STEPS]
