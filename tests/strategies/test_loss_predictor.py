from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.strategies._loss_predictor import HISTORY, LossPredictor

TAGS = torch.arange(40) % 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learned(steps: int, seed: int = 0, size: int = 12) -> tuple[LossPredictor, dict[int, list[float]]]:
    """A predictor after random batches, with duplicates and zeros, and the losses of every instance by loops."""
    predictor, generator = LossPredictor(Bins(TAGS)), seeded(seed)
    memory: dict[int, list[float]] = {index: [1.0] for index in range(len(TAGS))}
    for _ in range(steps):
        indices = torch.randint(len(TAGS), (size,), generator=generator)
        losses = torch.rand(size, dtype=torch.float64, generator=generator) * 3
        losses[torch.rand(size, generator=generator) < 0.2] = 0.0
        predictor.learn(indices, losses)
        for index, loss in dict(zip(indices.tolist(), losses.tolist(), strict=True)).items():
            memory[index] = [*memory[index], loss][-HISTORY:]
    return predictor, memory


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def naive(state: dict[str, Tensor], losses: list[float], tag: int) -> float:
    """The network by its equations, in float64."""
    part = {name: value.double().numpy() for name, value in state.items()}
    sequence = [np.array([loss]) for loss in losses]
    for layer in range(2):
        h, c, outputs = np.zeros(32), np.zeros(32), []
        for x in sequence:
            gates = part[f"recurrent.weight_ih_l{layer}"] @ x + part[f"recurrent.bias_ih_l{layer}"]
            gates = gates + part[f"recurrent.weight_hh_l{layer}"] @ h + part[f"recurrent.bias_hh_l{layer}"]
            enter, forget, cell, leave = np.split(gates, 4)
            c = sigmoid(forget) * c + sigmoid(enter) * np.tanh(cell)
            h = sigmoid(leave) * np.tanh(c)
            outputs.append(h)
        sequence = outputs
    features = np.concatenate([sequence[-1], part["embedding.weight"][tag]])
    return float((part["linear.weight"] @ features + part["linear.bias"])[0])


@pytest.mark.parametrize("steps", [0, 1, 60])
def test_predictions_by_the_equations_of_the_network(steps: int):
    predictor, memory = learned(steps)
    assert steps < 60 or max(map(len, memory.values())) == HISTORY
    network = predictor.state_dict()["network"]
    expected = [naive(network, memory[index], int(TAGS[index])) for index in range(len(TAGS))]
    torch.testing.assert_close(
        predictor.predict(torch.arange(len(TAGS))), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5
    )


def test_the_memory_by_loops():
    predictor, memory = learned(60)
    state = predictor.state_dict()
    for index, losses in memory.items():
        assert state["counts"][index] == len(losses)
        torch.testing.assert_close(state["losses"][index, : len(losses)], torch.tensor(losses))
    assert predictor.seen == sum(losses != [1.0] for losses in memory.values())


def test_a_step_is_one_of_adam_on_the_squared_error_before_the_memory_moves():
    predictor, memory = learned(5)
    network = predictor._network
    indices, losses = torch.tensor([3, 4, 3]), torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
    before = predictor.state_dict()
    predictions = network(
        before["losses"][indices], before["counts"][indices].long(), TAGS[indices]
    )  # of the memory as it is
    error = (predictions - losses.float()).square().mean()
    gradients = torch.autograd.grad(error, list(network.parameters()))
    predictor.learn(indices, losses)
    assert predictor.error == pytest.approx(math.sqrt(error.item()), rel=1e-5)
    after = predictor.state_dict()
    for (name, _), gradient, old in zip(network.named_parameters(), gradients, before["moments"], strict=True):
        step = float(old["step"]) + 1
        assert step == 6
        mean = 0.9 * old["exp_avg"] + 0.1 * gradient
        square = 0.999 * old["exp_avg_sq"] + 0.001 * gradient.square()
        moved = 1e-3 * mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.testing.assert_close(after["network"][name], before["network"][name] - moved, rtol=1e-4, atol=2e-6)
    assert memory[3] != [*memory[3], 1.5]
    assert float(after["losses"][3, after["counts"][3].long() - 1]) == 1.5  # of duplicates the last


def test_it_learns_what_can_be_predicted():
    """Losses that depend on the bin, and shrink by a tenth each time."""
    predictor, generator = LossPredictor(Bins(TAGS)), seeded()
    loss = 1.0 + TAGS.double()
    errors = []
    for _ in range(300):
        indices = torch.randperm(len(TAGS), generator=generator)[:20]
        predictor.learn(indices, loss[indices])
        loss[indices] *= 0.9
        loss[loss < 0.2] += 1.0
        errors.append(predictor.error)
    assert sum(errors[-20:]) < 0.3 * sum(errors[:20])


@pytest.mark.parametrize("seed", range(20))
def test_at_first_the_bins_hardly_differ(seed: int):
    """Else the first batches would come from a few of them."""
    predictions = LossPredictor(Bins(TAGS), seed).predict(torch.arange(len(TAGS)))
    assert 0 < float(predictions.max() - predictions.min()) < 0.1


def test_it_is_the_same_each_time_and_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, three = LossPredictor(Bins(TAGS)), LossPredictor(Bins(TAGS)), LossPredictor(Bins(TAGS), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    everything = torch.arange(len(TAGS))
    assert torch.equal(one.predict(everything), two.predict(everything))
    assert not torch.equal(one.predict(everything), three.predict(everything))
    assert not one.predict(everything).requires_grad
    assert one.predict(everything).dtype == torch.float64


def test_it_learns_under_inference_mode_as_outside():
    one, two = LossPredictor(Bins(TAGS)), LossPredictor(Bins(TAGS))
    for seed in range(4):
        indices = torch.randint(len(TAGS), (8,), generator=seeded(seed))
        one.learn(indices, indices.double())
        with torch.inference_mode():
            two.learn(indices.clone(), indices.double())
    everything = torch.arange(len(TAGS))
    assert torch.equal(one.predict(everything), two.predict(everything))


@pytest.mark.parametrize("steps", [0, 3, 40])
def test_a_restored_state_goes_on_equally(steps: int):
    predictor, _ = learned(steps)
    file = io.BytesIO()
    torch.save(predictor.state_dict(), file)
    file.seek(0)
    restored = LossPredictor(Bins(TAGS), seed=9)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert (restored.seen, restored.error) == (predictor.seen, predictor.error)
    everything = torch.arange(len(TAGS))
    for seed in range(15):
        assert torch.equal(restored.predict(everything), predictor.predict(everything))
        indices = torch.randint(len(TAGS), (8,), generator=seeded(seed))
        for one in (predictor, restored):
            one.learn(indices, indices.double() / 10)


def test_a_state_is_a_copy():
    predictor, _ = learned(5)
    state, everything = predictor.state_dict(), torch.arange(len(TAGS))
    expected = predictor.predict(everything)
    predictor.learn(everything, torch.ones(len(TAGS), dtype=torch.float64))
    for _ in range(2):
        restored = LossPredictor(Bins(TAGS))
        restored.load_state_dict(state)
        assert torch.equal(restored.predict(everything), expected)
        restored.learn(everything, torch.ones(len(TAGS), dtype=torch.float64))


@pytest.mark.parametrize("loss", [0.0, 1e30, 1e100])
def test_no_loss_makes_it_not_a_number(loss: float):
    predictor = LossPredictor(Bins(TAGS))
    for _ in range(15):
        predictor.learn(torch.tensor([0, 1]), torch.full((2,), loss, dtype=torch.float64))
    predictor.learn(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64))
    assert torch.isfinite(predictor.predict(torch.arange(len(TAGS)))).all()
    assert math.isfinite(predictor.error)
