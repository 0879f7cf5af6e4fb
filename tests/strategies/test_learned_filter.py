from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import LearnedFilter, Scores
from tests.helpers.measured import EPOCHS, Measured, fit
from tests.helpers.statistics import p_value
from tests.helpers.tiny import BATCH, EPOCH, TinyData, differences, tiny_trainer

N, C = 60, 4
LABELS = torch.arange(N) % C
SIZE, TOTAL = 8, 20  # of a batch; steps


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def started(bins: Bins | None = None, **options: Any) -> LearnedFilter:
    strategy = LearnedFilter(**options)
    strategy.start(Bins.from_labels(LABELS) if bins is None else bins)
    strategy.plan(TOTAL, TOTAL // 4)
    return strategy


def with_policy(theta: Tensor, path: Path, **options: Any) -> LearnedFilter:
    torch.save({"policy": theta}, path / "policy.pt")
    return started(policy=str(path / "policy.pt"), **options)


def scores_of(draw: Draw, generator: torch.Generator) -> Scores:
    logits = 2 * torch.randn(len(draw.indices), C, dtype=torch.float64, generator=generator)
    return Scores(losses=-logits.log_softmax(1)[torch.arange(len(logits)), LABELS[draw.indices]], logits=logits)


class Oracle:
    """The features and the log-likelihood of one episode, by loops and autograd."""

    def __init__(self, theta: Tensor, labels: bool) -> None:
        self.theta = theta.clone().requires_grad_()
        self.labels = labels
        self.log_likelihood = torch.zeros((), dtype=torch.float64)
        self.steps, self.losses, self.best = 0, [], 0.0

    def features(self, index: int, loss: float, logits: list[float]) -> list[float]:
        total = math.fsum(math.exp(z) for z in logits)
        p = [math.exp(z) / total for z in logits]
        own = int(LABELS[index])
        margin = p[own] - max(p[c] for c in range(C) if c != own)
        mean = math.fsum(self.losses) / len(self.losses) if self.losses else 0.0
        found = [min(loss, 10.0), p[own], margin, self.steps / TOTAL, min(mean, 10.0), self.best, 1.0]
        return found + [float(c == own) for c in range(C)] * self.labels

    def select(self, indices: list[int], scores: Scores, uniforms: list[float]) -> list[int]:
        assert scores.losses is not None
        assert scores.logits is not None
        kept, dropped = [], []
        for m, index in enumerate(indices):
            f = double(*self.features(index, float(scores.losses[m]), scores.logits[m].tolist()))
            keep = 1 / (1 + torch.exp(-(self.theta * f).sum()))
            if uniforms[m] < float(keep.detach()):
                self.log_likelihood = self.log_likelihood + torch.log(keep)
                kept.append(m)
            else:
                self.log_likelihood = self.log_likelihood + torch.log(1 - keep)
                dropped.append((-float(keep.detach()), m))
            if len(kept) == SIZE:
                break
        return kept + [m for _, m in sorted(dropped)[: SIZE - len(kept)]]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("constant", [2.0, -1.5])
def test_choices_and_the_policy_gradient_agree_with_loops_and_autograd(labels: bool, constant: float, tmp_path: Path):
    theta = torch.randn(7 + C * labels, dtype=torch.float64, generator=seeded(1)) / 3
    theta[6] = constant
    strategy = with_policy(theta, tmp_path, labels=labels, target_accuracy=0.9, learning_rate=0.01)
    oracle, generator = Oracle(theta, labels), seeded(2)
    for step in range(10):
        draw = strategy.draw(SIZE, generator)
        assert len(draw.indices) == 2 * SIZE
        scores = scores_of(draw, generator)
        uniforms = torch.rand(2 * SIZE, dtype=torch.float64, generator=seeded(step)).tolist()
        selection = strategy.select(draw, scores, SIZE, seeded(step))
        assert selection.weights is None
        assert selection.positions.tolist() == oracle.select(draw.indices.tolist(), scores, uniforms)
        assert scores.losses is not None
        trained = scores.losses[selection.positions]
        strategy.update(draw.select(selection.positions), trained, torch.zeros_like(trained))
        oracle.steps += 1
        oracle.losses.append(math.fsum(trained.tolist()) / SIZE)
        if step % 3 == 2:
            oracle.best = 0.1 * step
            strategy.validated({"val/accuracy": oracle.best, "other": 3.0})
            strategy.validated({"val/accuracy": oracle.best / 2})
    assert torch.equal(strategy.theta, theta)
    strategy.validated({"val/accuracy": 0.9})
    reward = -math.log(10 / TOTAL)
    oracle.log_likelihood.backward()
    assert oracle.theta.grad is not None
    torch.testing.assert_close(strategy.theta, theta + 0.01 * reward * oracle.theta.grad, rtol=1e-10, atol=1e-12)
    assert strategy.metrics()["reward"] == pytest.approx(reward)


def test_an_update_by_hand():
    # All features but the constant are 0, or of no class: the loss is 0 and there are no classes.
    strategy = started(Bins.single(4), target_accuracy=0.5, learning_rate=0.1, presample=2)
    draw = strategy.draw(2, seeded())
    scores = Scores(losses=torch.zeros(4).double(), logits=torch.zeros(4, 1).double())
    selection = strategy.select(draw, scores, 2, seeded())
    keep = 1 / (1 + math.exp(-2))
    uniforms = torch.rand(4, dtype=torch.float64, generator=seeded()).tolist()
    kept = [m for m in range(4) if uniforms[m] < keep][:2]
    assert len(kept) == 2  # so that no more was decided than up to the second
    assert selection.positions.tolist() == kept
    decided = kept[1] + 1
    strategy.update(draw.select(selection.positions), torch.zeros(2).double(), torch.zeros(2).double())
    strategy.validated({"val/accuracy": 0.5})
    # a − π is 1 − keep for the two, −keep for those dropped before; the reward is log 20.
    step = 0.1 * math.log(20) * (2 - decided * keep)
    torch.testing.assert_close(strategy.theta[6], torch.tensor(2 + step, dtype=torch.float64))
    # Probability and margin are 1 for a loss of 0.
    torch.testing.assert_close(strategy.theta[1:3], double(step, step))


def test_keep_probabilities_are_those_of_the_policy():
    strategy, generator = started(), seeded()
    draw = strategy.draw(SIZE, generator)
    scores = scores_of(draw, generator)
    firsts = torch.tensor([int(strategy.select(draw, scores, 1, generator).positions[0]) for _ in range(4000)])
    keep = 1 / (1 + math.exp(-2))
    law = double(*[keep * (1 - keep) ** m for m in range(16)])
    assert p_value(firsts, law) > 1e-3


def test_the_expected_gradient_is_zero():
    # Σ_a P(a) ∇ log P(a) = 0, by many draws: within 5 standard errors.
    strategy, generator = started(), seeded()
    draw = strategy.draw(SIZE, generator)
    scores = scores_of(draw, generator)
    found, before = [], strategy.state_dict()["gradient"]
    for _ in range(3000):
        strategy.select(draw, scores, SIZE, generator)
        after = strategy.state_dict()["gradient"]
        found.append(after - before)
        before = after
    rows = torch.stack(found)
    error = rows.std(0) / math.sqrt(len(rows))
    assert bool((rows.mean(0).abs() <= 5 * error + 1e-12).all())
    assert float(error[6]) > 0


def test_a_policy_that_drops_all_still_fills_the_batch_with_the_likeliest(tmp_path: Path):
    theta = torch.zeros(7, dtype=torch.float64)
    theta[0], theta[6] = 1.0, -200.0
    strategy = with_policy(theta, tmp_path, train_policy=False)
    draw = strategy.draw(SIZE, seeded())
    losses = torch.rand(16, dtype=torch.float64, generator=seeded())
    selection = strategy.select(draw, Scores(losses=losses, logits=torch.zeros(16, C).double()), SIZE, seeded())
    assert selection.positions.tolist() == losses.argsort(descending=True)[:SIZE].tolist()


def test_without_training_the_policy_stays(tmp_path: Path):
    theta = torch.ones(7, dtype=torch.float64)
    strategy = with_policy(theta, tmp_path, train_policy=False)
    draw = strategy.draw(SIZE, seeded())
    strategy.select(draw, scores_of(draw, seeded()), SIZE, seeded())
    strategy.validated({"val/accuracy": 1.0})
    assert torch.equal(strategy.theta, theta)
    assert strategy.metrics() == {"keep_probability": strategy.metrics()["keep_probability"], "best": 1.0}


def test_the_episode_is_over_once():
    strategy = started(target_accuracy=0.5)
    for _ in range(3):
        draw = strategy.draw(SIZE, seeded())
        strategy.select(draw, scores_of(draw, seeded()), SIZE, seeded())
        strategy.update(draw, torch.ones(16).double(), torch.zeros(16).double())
        strategy.validated({"val/accuracy": 0.6})
        after = strategy.theta
        strategy.validated({"val/accuracy": 0.9})
        assert torch.equal(strategy.theta, after)
    assert strategy.metrics()["reward"] == pytest.approx(math.log(TOTAL))
    assert not torch.equal(after, started().theta)


def test_the_margin_without_classes_goes_by_the_loss():
    strategy = started(Bins(torch.zeros(N, dtype=torch.int64)))
    draw = strategy.draw(SIZE, seeded())
    scores = scores_of(draw, seeded())
    with_classes = started().features(draw._replace(bins=LABELS[draw.indices]), scores)
    torch.testing.assert_close(strategy.features(draw, scores), with_classes)


def test_a_saved_policy_is_another_runs(tmp_path: Path):
    first = started(target_accuracy=0.5)
    draw = first.draw(SIZE, seeded())
    first.select(draw, scores_of(draw, seeded()), SIZE, seeded())
    first.validated({"val/accuracy": 0.6})
    first.save_policy(tmp_path / "policy.pt")
    second = started(policy=str(tmp_path / "policy.pt"))
    assert torch.equal(second.theta, first.theta)
    assert not torch.equal(second.theta, started().theta)


# --- State, degenerate inputs, arguments ---


@pytest.mark.parametrize("over", [True, False])
def test_a_restored_state_goes_on_bit_exactly(over: bool):
    def step(it: LearnedFilter, generator: torch.Generator) -> Draw:
        draw = it.draw(SIZE, generator)
        chosen = draw.select(it.select(draw, scores_of(draw, generator), SIZE, generator).positions)
        it.update(chosen, chosen.indices.double(), torch.zeros(SIZE).double())
        return chosen

    strategy, generator = started(target_accuracy=0.7), seeded()
    for _ in range(5):
        step(strategy, generator)
    strategy.validated({"val/accuracy": 0.8 if over else 0.4})
    buffer = io.BytesIO()
    torch.save({"strategy": strategy.state_dict(), "generator": generator.get_state()}, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    other, other_generator = started(target_accuracy=0.7), torch.Generator()
    other.load_state_dict(state["strategy"])
    other_generator.set_state(state["generator"])
    for _ in range(5):
        ours, theirs = step(strategy, generator), step(other, other_generator)
        assert torch.equal(ours.indices, theirs.indices)
        assert strategy.metrics() == other.metrics()
    strategy.validated({"val/accuracy": 0.9})
    other.validated({"val/accuracy": 0.9})
    assert torch.equal(strategy.theta, other.theta)


def test_the_state_is_a_copy():
    strategy = started()
    state = strategy.state_dict()
    draw = strategy.draw(SIZE, seeded())
    strategy.select(draw, scores_of(draw, seeded()), SIZE, seeded())
    assert float(state["gradient"].abs().sum()) == 0
    assert float(strategy.state_dict()["gradient"].abs().sum()) > 0


def test_no_nan_ever():
    strategy = started()
    draw = strategy.draw(SIZE, seeded())
    losses = torch.tensor([math.nan, math.inf, -math.inf, 1e300, -1e300, 0.0] + [1.0] * 10).double()
    logits = torch.full((16, C), math.inf).double()
    logits[1], logits[2], logits[3] = math.nan, 1e308, -math.inf
    for scores in (
        Scores(losses=losses, logits=logits),
        Scores(losses=torch.full((16,), math.nan).double(), logits=torch.zeros(16, 1).double()),
        Scores(losses=torch.zeros(16).double(), logits=torch.zeros(16, C, 3, 3).double()),
        Scores(losses=torch.zeros(16).double(), logits=torch.zeros(16, 2).double()),  # fewer than the classes
    ):
        selection = strategy.select(draw, scores, SIZE, seeded())
        assert len(selection.positions.unique()) == SIZE
        assert bool(strategy.features(draw, scores).isfinite().all())
    assert strategy.skipped > 0
    strategy.update(draw, torch.full((16,), math.nan).double(), torch.zeros(16).double())
    strategy.validated({"val/accuracy": math.nan})
    strategy.validated({"val/accuracy": 1.0})
    assert bool(strategy.theta.isfinite().all())
    assert all(math.isfinite(value) for value in strategy.metrics().values())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"presample": 1}, ValueError, "`presample` must be at least 2 batches, to have a choice, got 1"),
        ({"presample": 2.0}, TypeError, "`presample` must be an integer number of batches, got 2.0"),
        ({"train_policy": False}, ValueError, "`train_policy=False` needs a `policy`"),
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be positive and finite, got 0.0"),
        ({"target_accuracy": 98.0}, ValueError, r"`target_accuracy` must be in \(0, 1\], got 98.0"),
        ({"policy": "nowhere.pt"}, FileNotFoundError, "`policy='nowhere.pt'` is no file"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        LearnedFilter(**options)


def test_errors_say_what_to_do(tmp_path: Path):
    with pytest.raises(ValueError, match="no end in sight: give the Trainer `max_epochs` or `max_steps`"):
        started().plan(None, 5)
    with pytest.raises(ValueError, match=r"`monitor='val/accuracy'` is not among what was logged, a, b: name the"):
        started().validated({"b": 1.0, "a": 2.0})
    with pytest.raises(ValueError, match="has 7 coefficients, but here are 11 features"):
        with_policy(torch.zeros(7).double(), tmp_path, labels=True)
    torch.save({"callbacks": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="has no policy: name what `save_policy` wrote, or a checkpoint"):
        LearnedFilter(policy=str(tmp_path / "other.pt"))


@pytest.mark.parametrize("content", [b"", b"policy: 3\n", b"theta\n", b"PK\x03\x04 cut off"])
def test_a_file_that_is_none_of_ours_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "policy.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"policy.pt'` is no file of `torch.save`: name what `save_policy` wrote"):
        LearnedFilter(policy=str(tmp_path / "policy.pt"))


@pytest.mark.parametrize(("content", "name"), [(torch.zeros(7), "Tensor"), ([1.0], "list")])
def test_a_file_without_a_dict_is_refused(content: Any, name: str, tmp_path: Path):
    torch.save(content, tmp_path / "policy.pt")
    with pytest.raises(ValueError, match=f"has a {name}, not a dict with a policy: name what `save_policy` wrote"):
        LearnedFilter(policy=str(tmp_path / "policy.pt"))


def test_a_new_training_is_a_new_episode_with_the_policy_so_far():
    strategy = started()
    draw = strategy.draw(SIZE, seeded())
    strategy.select(draw, scores_of(draw, seeded()), SIZE, seeded())
    strategy.update(draw, torch.ones(2 * SIZE).double(), torch.zeros(2 * SIZE).double())
    strategy.validated({"val/accuracy": 0.99})
    theta = strategy.theta
    assert not torch.equal(theta, started().theta)
    strategy.begin()
    state = strategy.state_dict() | {"candidates": None, "policy": None}
    fresh = started().state_dict() | {"candidates": None, "policy": None}
    assert torch.equal(state.pop("gradient"), fresh.pop("gradient"))
    assert state == fresh
    assert torch.equal(strategy.theta, theta)


# --- Under a Trainer ---


class Heard(LearnedFilter):
    """Keeps what validations have found."""

    def start(self, bins: Bins) -> None:
        super().start(bins)
        self.heard: list[tuple[int, dict[str, float]]] = []

    def validated(self, metrics: dict[str, float]) -> None:
        self.heard.append((self.state_dict()["steps"], metrics))
        super().validated(metrics)


@pytest.mark.filterwarnings("ignore:::lightning")
def test_it_hears_of_each_validation_amid_training_and_leaves_its_policy_in_the_checkpoint(tmp_path: Path):
    seed_everything(0, verbose=False)
    strategy = Heard(target_accuracy=0.3)
    trainer = tiny_trainer(
        tmp_path,
        callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net"), ModelCheckpoint(tmp_path, "last")],
        max_epochs=3,
        limit_val_batches=2,
        num_sanity_val_steps=2,
        enable_checkpointing=True,
    )
    module, data = Measured(), AdaptiveDataModule(TinyData(batch_size=BATCH))
    trainer.fit(module, datamodule=data)
    epoch = trainer.num_training_batches
    assert [steps for steps, _ in strategy.heard] == [epoch, 2 * epoch, 3 * epoch]
    assert strategy.heard[-1][1]["val/accuracy"] == pytest.approx(float(trainer.callback_metrics["val/accuracy"]))
    trainer.validate(module, datamodule=data, verbose=False)
    assert len(strategy.heard) == 3
    assert "reward" in strategy.metrics()
    again = LearnedFilter(policy=str(next(tmp_path.glob("last*.ckpt"))), train_policy=False)
    again.start(Bins.single(4))
    assert not torch.equal(again.theta, started().theta)


@pytest.mark.filterwarnings("ignore:::lightning")
def test_the_same_seed_gives_the_same_policy_and_a_policy_is_used(tmp_path: Path):
    thetas = []
    for _ in range(2):
        seed_everything(0, verbose=False)
        strategy = LearnedFilter(target_accuracy=0.2)
        trainer = tiny_trainer(
            tmp_path,
            callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net")],
            max_epochs=2,
            limit_val_batches=2,
        )
        trainer.fit(Measured(), datamodule=AdaptiveDataModule(TinyData(batch_size=BATCH)))
        thetas.append(strategy.theta)
    assert torch.equal(*thetas)


@pytest.mark.filterwarnings("ignore:::lightning")
def test_resumed_from_a_checkpoint_that_was_saved_after_validation_it_goes_on_exactly(tmp_path: Path):
    def make() -> LearnedFilter:
        return LearnedFilter(target_accuracy=0.9)

    fit(make, tmp_path / "whole", callbacks=(ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1),))
    fit(make, tmp_path / "rest", seed=1, ckpt_path=tmp_path / "epoch=1.ckpt")
    whole, rest = (torch.load(tmp_path / f"{name}.0.pt", weights_only=True) for name in ("whole", "rest"))
    assert len(rest["batches"]) == (EPOCHS - 2) * EPOCH
    for name in ("batches", "states"):
        assert differences(rest[name], whole[name][2 * EPOCH :]) == []
    assert rest["states"][0]["best"] > 0
