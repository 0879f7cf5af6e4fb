import math
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import MNISTDataModule
from tests.helpers.statistics import double
from thesis import training
from thesis.grid import cells, select
from thesis.results import PROBED, ROW, Cell, Row
from thesis.training import Clock, measure, train, variances


def ignore(rows: list[Row]) -> None: ...


def stop_at(epoch: int) -> Any:
    """Stops, by a division by 0, after the measurements of an epoch, before its checkpoint."""
    return lambda rows: 1 / (len(rows) - epoch - 1)


def oracle(module: Any, data: MNISTDataModule, r: Tensor) -> dict[str, Any]:
    """The definitions; the variances are traces of the covariances of the estimates."""

    def outcomes(part: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = data.dataset(part).images, data.dataset(part).labels
        with torch.no_grad():
            logits = torch.cat([module.eval()(some) for some in images.split(128)]).double()
        return logits, labels, logits.softmax(1)[torch.arange(len(labels)), labels].log().neg()

    def trace(estimates: Tensor, probabilities: Tensor) -> float:
        return float(probabilities @ (estimates - probabilities @ estimates).square().sum(1))

    (z, y, losses), (z_test, y_test, test_losses) = outcomes("train"), outcomes("test")
    n, d = len(y), z.softmax(1) - torch.eye(10)[y]
    return {
        "training_cost_mean": float(losses.mean()),
        "training_cost_median": statistics.median(losses.tolist()),
        "test_cost": float(test_losses.mean()),
        "test_accuracy": float((z_test.argmax(1) == y_test).double().mean()),
        "ess": 1 / float(r @ r),
        "variance_uniform": trace(d, torch.full_like(r, 1 / n)),
        "variance_weighted": trace(d / (n * r)[:, None], r),
        "variance_drawn": trace(d, r),
        "p": [float(r[y == j].sum()) for j in range(10)],
    }


def test_every_column_is_what_it_is_defined_as_and_measuring_leaves_no_trace(monkeypatch: Any, tmp_path: Path):
    spread = []

    def check(module: Any, data: Any, strategy: Any, probed: int) -> Any:
        assert probed == 0
        generator, was_training = torch.get_rng_state(), [part.training for part in module.modules()]
        found = measure(module, data, strategy)
        assert measure(module, data, strategy) == found
        assert torch.equal(torch.get_rng_state(), generator)
        assert [part.training for part in module.modules()] == was_training
        r = strategy.probabilities()
        spread.append(float(r.max() / r.min()))
        for name, value in oracle(module, data, r).items():
            assert found[name] == pytest.approx(value, rel=1e-9), name
        module.train()
        return found

    monkeypatch.setattr(training, "measure", check)
    rows = train(cells("thesis", 1)[1]._replace(batch_size=20), 3, tmp_path / "it.ckpt", "cpu", ignore)
    assert (len(spread), spread[-1] > 2) == (4, True)
    assert [list(row) for row in rows] == [list(ROW)] * 4
    assert (rows[0]["seconds"], rows[0]["p"]) == ("0", ";".join(["0.1"] * 10))


def test_the_study_of_the_variance_has_its_own_columns_beside_them(tmp_path: Path):
    cell = select(cells("variance", 1), ["AS_gradient", "adam"])[0]._replace(batch_size=20)
    rows = train(cell, 1, tmp_path / "it.ckpt", "cpu", ignore)
    assert [list(row) for row in rows] == [[*ROW, *PROBED]] * 2
    assert rows[0]["moment_batch"] == "nan"  # before the first batch
    found = [float(value) for name, value in rows[1].items() if name != "p"]
    assert all(map(math.isfinite, found))


def test_what_is_never_drawn_makes_it_infinite_unless_it_has_no_gradient():
    r, d = double(0.0, 0.5, 0.5), double(1.0, -1.0, 2.0, -2.0, 0.0, 0.0).view(3, 2)
    assert variances(d, r)["variance_weighted"] == math.inf
    assert math.isfinite(variances(d.flip(0), r)["variance_weighted"])


def test_the_clock_stands_still_between_epochs_and_goes_on_from_a_checkpoint(monkeypatch: pytest.MonkeyPatch):
    times = iter([0.0, 1.0, 11.0, 13.0, 33.0, 34.0])
    monkeypatch.setattr("thesis.training.time.process_time", lambda: next(times))
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    clock: Any = Clock()
    for seconds in (1.0, 3.0, 4.0):
        clock.on_train_epoch_start(None, module)
        clock.on_train_epoch_end(None, module)
        assert clock.seconds == seconds
        state, clock = clock.state_dict(), Clock()
        clock.load_state_dict(state)


KINDS = [
    *cells("thesis", 1)[:3],
    *select(cells("time", 1), ["adam", "InfoBatch", "SelectiveBackprop"]),
    *select(cells("ablation", 1), ["noisy_10", "AS_one_bin", "gopal"]),
    *select(cells("variance", 1), ["adam", "upper_bound"]),
]


@pytest.mark.slow
@pytest.mark.parametrize("cell", KINDS, ids=lambda cell: cell.name)
def test_with_every_kind_of_arm_a_resumed_training_has_the_rows_of_the_uninterrupted_one(cell: Cell, tmp_path: Path):
    cell = cell._replace(batch_size=20)
    whole = train(cell, 3, tmp_path / "whole.ckpt", "cpu", ignore)
    with pytest.raises(ZeroDivisionError):
        train(cell, 3, tmp_path / "it.ckpt", "cpu", stop_at(2))
    reported: list[list[Row]] = []
    torch.rand(7)  # the random state of another process
    rest = train(cell, 3, tmp_path / "it.ckpt", "cpu", lambda rows: reported.append(list(rows)))
    assert [len(rows) for rows in reported] == [3, 4]
    seconds = [float(row["seconds"]) for row in rest]
    assert 0 == seconds[0] < seconds[1] < seconds[2] < seconds[3]
    assert [row | {"seconds": ""} for row in rest] == [row | {"seconds": ""} for row in whole]
    assert train(cell, 3, tmp_path / "it.ckpt", "cpu", stop_at(3)) == rest  # there is only its end left


def test_a_checkpoint_is_whole_whenever_the_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cell, path = cells("thesis", 1)[0], tmp_path / "it.ckpt"
    with pytest.raises(ZeroDivisionError):
        train(cell, 3, path, "cpu", stop_at(2))
    before = path.read_bytes()

    def cut_short(trainer: Any, to: Path) -> None:
        Path(to).write_bytes(before[:1000])
        raise ZeroDivisionError

    monkeypatch.setattr("thesis.training.Trainer.save_checkpoint", cut_short)
    with pytest.raises(ZeroDivisionError):
        train(cell, 3, path, "cpu", ignore)
    assert path.read_bytes() == before


def test_the_seed_is_the_cells_and_the_first_parameters_are_the_same_for_all_arms(tmp_path: Path):
    first, other_arm = cells("thesis", 1)[:2]
    made = [train(c, 1, tmp_path / c.name, "cpu", ignore)[0] for c in (first, other_arm, first._replace(seed=1))]
    found = [row["training_cost_mean"] for row in made]
    assert found[0] == found[1] != found[2]
