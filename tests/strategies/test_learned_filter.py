import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback
from lightning_as.core.bins import Bins
from lightning_as.core.draw import Draw
from lightning_as.strategies import LearnedFilter, Scores
from tests.helpers.measured import EPOCHS, Measured, fit
from tests.helpers.statistics import double, p_value, seeded
from tests.helpers.strategies import as_drawn, learn
from tests.helpers.strategies import started as at_work
from tests.helpers.tiny import EPOCH, TinyData, differences, tiny_trainer

N, C = 60, 4
LABELS = torch.arange(N) % C
SIZE, TOTAL = 8, 20  # of a batch; steps


def started(bins: Any = None, theta: Tensor | None = None, path: Path = Path(), **options: Any) -> LearnedFilter:
    if theta is not None:
        torch.save({"policy": theta}, path / "policy.pt")
        options["policy"] = str(path / "policy.pt")
    return at_work(LearnedFilter(**options), Bins.from_labels(LABELS) if bins is None else bins, TOTAL, TOTAL // 4)


def scores_of(draw: Draw, generator: torch.Generator) -> Scores:
    logits = 2 * torch.randn(len(draw.indices), C, dtype=torch.float64, generator=generator)
    return Scores(losses=-logits.log_softmax(1)[torch.arange(len(logits)), LABELS[draw.indices]], logits=logits)


def one_step(strategy: LearnedFilter) -> None:
    draw = strategy.draw(SIZE, seeded())
    strategy.select(draw, scores_of(draw, seeded()), SIZE, seeded())
    learn(strategy, draw.indices, torch.ones(2 * SIZE).double())


class Oracle:
    def __init__(self, theta: Tensor, labels: bool) -> None:
        self.theta, self.labels = theta.clone().requires_grad_(), labels
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
            is_kept = uniforms[m] < float(keep.detach())
            self.log_likelihood = self.log_likelihood + torch.log(keep if is_kept else 1 - keep)
            (kept if is_kept else dropped).append((-float(keep.detach()), m))
            if len(kept) == SIZE:
                break
        return [m for _, m in (kept + sorted(dropped))[:SIZE]]


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("constant", [2.0, -1.5])
def test_choices_and_the_policy_gradient_agree_with_loops_and_autograd(labels: bool, constant: float, tmp_path: Path):
    theta = torch.randn(7 + C * labels, dtype=torch.float64, generator=seeded(1)) / 3
    theta[6] = constant
    strategy = started(theta=theta, path=tmp_path, labels=labels, target_accuracy=0.9, learning_rate=0.01)
    oracle, generator = Oracle(theta, labels), seeded(2)
    for step in range(10):
        draw = strategy.draw(SIZE, generator)
        assert len(draw.indices) == 2 * SIZE
        scores = scores_of(draw, generator)
        uniforms = torch.rand(2 * SIZE, dtype=torch.float64, generator=seeded(step)).tolist()
        selection = strategy.select(draw, scores, SIZE, seeded(step))
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
    (gradient,) = torch.autograd.grad(oracle.log_likelihood, oracle.theta)
    torch.testing.assert_close(strategy.theta, theta + 0.01 * reward * gradient, rtol=1e-10, atol=1e-12)
    assert strategy.metrics()["reward"] == pytest.approx(reward)
    after = strategy.theta
    one_step(strategy)
    strategy.validated({"val/accuracy": 0.95})
    strategy.progress.reset()
    strategy.start_epoch(generator)
    assert torch.equal(strategy.theta, after)  # one episode is over, and another begins with the policy so far
    state = strategy.state_dict()
    assert (state["steps"], state["loss_sum"], state["loss_count"], state["best"]) == (0, 0, 0, 0)
    assert (state["learning"], state["reward"], float(state["gradient"].abs().sum())) == (True, None, 0)


def test_at_first_seven_in_eight_are_kept_at_random():
    strategy, generator = started(), seeded()
    draw = strategy.draw(SIZE, generator)
    scores = scores_of(draw, generator)
    firsts = torch.tensor([int(strategy.select(draw, scores, 1, generator).positions[0]) for _ in range(1000)])
    keep = 1 / (1 + math.exp(-2))
    assert p_value(firsts, double(*[keep * (1 - keep) ** m for m in range(16)])) > 1e-3


def test_a_policy_that_is_not_trained_stays_and_one_that_drops_all_still_fills_the_batch(tmp_path: Path):
    theta, losses = double(1, 0, 0, 0, 0, 0, -200), torch.rand(16, dtype=torch.float64, generator=seeded())
    strategy = started(theta=theta, path=tmp_path, train_policy=False)
    scores = Scores(losses=losses, logits=torch.zeros(16, C).double())
    selection = strategy.select(strategy.draw(SIZE, seeded()), scores, SIZE, seeded())
    assert selection.positions.tolist() == losses.argsort(descending=True)[:SIZE].tolist()
    strategy.validated({"val/accuracy": 1.0})
    assert torch.equal(strategy.theta, theta)
    assert strategy.metrics() == {"keep_probability": pytest.approx(0, abs=1e-80), "best": 1.0}


def test_the_margin_without_classes_goes_by_the_loss_and_no_score_makes_a_feature_not_a_number():
    strategy, draw = started(Bins.single(N)), as_drawn(started(), torch.arange(6))
    scores = scores_of(draw, seeded())
    with_classes = started().features(draw, scores)
    torch.testing.assert_close(strategy.features(draw._replace(bins=torch.zeros_like(draw.bins)), scores), with_classes)
    p = (-double(*range(6))).exp()
    one_logit = strategy.features(draw, Scores(losses=double(*range(6)), logits=torch.zeros(6, 1).double()))
    torch.testing.assert_close(one_logit[:, 1:3], torch.stack([p, 2 * p - 1], dim=1))
    losses = double(math.nan, math.inf, -math.inf, 1e300, -1e300, 0.0)
    logits = double(math.inf, math.nan, 1e308, -math.inf, 0.0, 1.0)
    for shape in ((6, C), (6, 1), (6, C, 3, 3), (6, 2)):  # which are fewer than the classes
        scores = Scores(losses=losses, logits=logits.view(6, *[1] * (len(shape) - 1)).expand(shape))
        assert bool(started().features(draw, scores).isfinite().all())


def test_a_saved_policy_is_another_runs_if_it_has_the_features(tmp_path: Path):
    first = started(target_accuracy=0.5)
    one_step(first)
    first.validated({"val/accuracy": 0.6})
    assert not torch.equal(first.theta, started().theta)
    first.save_policy(tmp_path / "saved.pt")
    assert torch.equal(started(policy=str(tmp_path / "saved.pt")).theta, first.theta)
    with pytest.raises(ValueError, match="has 7 coefficients, but there are 11 features"):
        started(policy=str(tmp_path / "saved.pt"), labels=True)
    with pytest.raises(ValueError, match=r"`monitor='val/accuracy'` is not among what was logged, a, b: name the"):
        first.validated({"b": 1.0, "a": 2.0})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no file of `torch.save`"),
        (b"PK\x03\x04 cut off", "is no file of `torch.save`"),
        (torch.zeros(7), "has a Tensor, not a dict with a policy"),
        ({"callbacks": {}}, "has no policy"),
        (None, "is no file"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(content: Any, message: str, tmp_path: Path):
    path = tmp_path / "policy.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    error = FileNotFoundError if content is None else ValueError
    with pytest.raises(error, match=f"policy.pt'` {message}: name what `save_policy` wrote, or a checkpoint"):
        LearnedFilter(policy=str(path))


@pytest.mark.filterwarnings("ignore:::lightning")
def test_it_hears_of_each_validation_amid_training_and_resumed_after_one_it_goes_on_exactly(tmp_path: Path):
    def hear(metrics: dict[str, float]) -> None:
        heard.append((strategy.state_dict()["steps"], metrics["val/accuracy"]))
        listen(metrics)

    strategy, heard = LearnedFilter(target_accuracy=0.8), list[tuple[int, float]]()  # which a later epoch reaches
    listen, strategy.validated = strategy.validated, hear
    fit(lambda: strategy, tmp_path / "whole", callbacks=(ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1),))
    assert [steps for steps, _ in heard] == [EPOCH * (epoch + 1) for epoch in range(EPOCHS)]
    assert strategy.metrics()["best"] == max(accuracy for _, accuracy in heard)
    trainer = tiny_trainer(tmp_path, callbacks=[AdaptiveSamplingCallback(strategy, logits_from="net")])
    trainer.validate(Measured(), datamodule=AdaptiveDataModule(TinyData()), verbose=False)
    assert len(heard) == EPOCHS
    fit(lambda: LearnedFilter(target_accuracy=0.8), tmp_path / "rest", seed=1, ckpt_path=tmp_path / "epoch=0.ckpt")
    whole, rest = (torch.load(tmp_path / f"{name}.0.pt", weights_only=True) for name in ("whole", "rest"))
    for name in ("batches", "states"):
        assert differences(rest[name], whole[name][EPOCH:]) == []
    assert "reward" in strategy.metrics()
    again = started(Bins.single(4), policy=str(tmp_path / f"epoch={EPOCHS - 1}.ckpt"), train_policy=False)
    assert torch.equal(again.theta, strategy.theta)
    assert not torch.equal(again.theta, started().theta)
