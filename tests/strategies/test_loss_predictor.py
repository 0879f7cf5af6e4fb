import math

import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from lightning_as.strategies._loss_predictor import HISTORY, LossPredictor
from tests.helpers.statistics import double, seeded
from tests.helpers.strategies import random_losses

TAGS = torch.arange(40) % 3
ALL = torch.arange(40)


def learned(steps: int) -> tuple[LossPredictor, dict[int, list[float]]]:
    """A predictor after random batches, with duplicates and zeros, and the losses of every instance by loops."""
    predictor, generator = LossPredictor(Bins(TAGS)), seeded()
    memory = {index: [1.0] for index in range(len(TAGS))}
    for _ in range(steps):
        indices, losses = torch.randint(len(TAGS), (12,), generator=generator), random_losses(12, generator, step=1)
        predictor.learn(indices, losses)
        for index, loss in dict(zip(indices.tolist(), losses.tolist(), strict=True)).items():
            memory[index] = [*memory[index], loss][-HISTORY:]
    return predictor, memory


def naive(state: dict[str, Tensor], losses: list[float], tag: int) -> float:
    """The network by its equations, in float64."""
    part = {name: value.double() for name, value in state.items()}
    sequence = [double(loss) for loss in losses]
    for layer in range(2):
        h = c = torch.zeros(32, dtype=torch.float64)
        for at, x in enumerate(sequence):
            gates = part[f"recurrent.weight_ih_l{layer}"] @ x + part[f"recurrent.bias_ih_l{layer}"]
            gates = gates + part[f"recurrent.weight_hh_l{layer}"] @ h + part[f"recurrent.bias_hh_l{layer}"]
            enter, forget, cell, leave = gates.split(32)
            c = forget.sigmoid() * c + enter.sigmoid() * cell.tanh()
            sequence[at] = h = leave.sigmoid() * c.tanh()
    features = torch.cat([sequence[-1], part["embedding.weight"][tag]])
    return float(part["linear.weight"] @ features + part["linear.bias"])


@pytest.mark.parametrize("steps", [0, 1, 60])
def test_the_memory_by_loops_and_predictions_by_the_equations_of_the_network(steps: int):
    predictor, memory = learned(steps)
    assert steps < 60 or max(map(len, memory.values())) == HISTORY
    state = predictor.state_dict()
    for index, losses in memory.items():
        assert state["counts"][index] == len(losses)
        torch.testing.assert_close(state["losses"][index, : len(losses)], torch.tensor(losses))
    assert predictor.seen == sum(losses != [1.0] for losses in memory.values())
    expected = [naive(state["network"], memory[index], int(TAGS[index])) for index in range(len(TAGS))]
    torch.testing.assert_close(predictor.predict(ALL), double(*expected), rtol=1e-4, atol=1e-5)


def test_a_step_is_one_of_adam_on_the_squared_error_before_the_memory_moves():
    predictor, _ = learned(5)
    network, before = predictor._network, predictor.state_dict()
    indices, losses = torch.tensor([3, 4, 3]), double(0.5, 2.0, 1.5)
    predictions = network(before["losses"][indices], before["counts"][indices].long(), TAGS[indices])
    error = (predictions - losses.float()).square().mean()
    gradients = torch.autograd.grad(error, list(network.parameters()))
    with torch.inference_mode():  # as the callback calls it
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
    assert float(after["losses"][3, after["counts"][3].long() - 1]) == 1.5  # of duplicates the last


def test_at_first_the_bins_hardly_differ_and_the_seed_decides():
    """Else the first batches would come from a few of them."""
    seen = [LossPredictor(Bins(TAGS), seed).predict(ALL) for seed in (*range(10), 9)]
    assert all(0 < float(predictions.max() - predictions.min()) < 0.1 for predictions in seen)
    assert torch.equal(seen[-1], seen[-2])
    assert not torch.equal(seen[0], seen[1])
