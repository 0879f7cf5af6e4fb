import math
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from benchmarks.budgets.data import Data
from benchmarks.budgets.networks import Classifier, MomentumClassifier, perceptron
from benchmarks.budgets.table import read
from benchmarks.budgets.tasks import Task
from benchmarks.budgets.training import GradientNorm, Group, evaluate, fit, measure, run

TABLE = Task("table", "table", perceptron, 3, 16, 1e-2)


@pytest.fixture
def data() -> Data:
    """Two classes that the first of three columns tells apart, one in four positive."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(200) % 4 == 0).long()
    inputs = torch.randn(200, 3, generator=generator)
    inputs[:, 0] += 2 * labels
    return Data(inputs[:160], labels[:160], inputs[160:], labels[160:])


def test_the_figures_are_those_of_the_formulas(data: Data):
    torch.manual_seed(0)
    module = Classifier(perceptron(2, 3), 1e-2, 5)
    figures = evaluate(module, data)
    probabilities = module(data.test_inputs).double().softmax(1).detach()
    truth, right = data.test_labels, probabilities.argmax(1) == data.test_labels
    assert figures["accuracy"] == pytest.approx(float(right.double().mean()), abs=1e-6)
    recalls = [float(right[truth == label].double().mean()) for label in (0, 1)]
    assert figures["balanced_accuracy"] == pytest.approx(sum(recalls) / 2, abs=1e-6)
    order = truth[probabilities[:, 1].argsort(descending=True)]  # precision at each positive
    precisions = [int(order[: at + 1].sum()) / (at + 1) for at in range(len(order)) if order[at]]
    assert figures["average_precision"] == pytest.approx(sum(precisions) / len(precisions), abs=1e-6)
    costs = [-math.log(probabilities[at, label]) for at, label in enumerate(truth.tolist())]
    assert figures["cost"] == pytest.approx(sum(costs) / len(costs))


def test_a_budget_is_its_share_of_the_steps_and_ends_with_no_learning_rate(data: Data):
    assert [measure(TABLE, budget, 0, "uniform", data)["steps"] for budget in (0.25, 1.0)] == [8, 30]  # of 10 an epoch
    module, seconds = fit(TABLE, 30, 0, "uniform", data)
    assert seconds > 0
    assert module.trainer.global_step == 30
    assert module.trainer.optimizers[0].param_groups[0]["lr"] < 1e-6


def test_a_step_of_momentum_is_the_gradient_whose_norm_is_recorded(data: Data):
    norm, norms = GradientNorm(), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        start = parameters_to_vector(perceptron(2, 3).parameters()).detach()
        module, _ = fit(TABLE._replace(learning_rate=1.0), 1, seed, "uniform", data, [norm], MomentumClassifier)
        schedule = module.scheduled(torch.optim.SGD(module.parameters(), 1.0))["lr_scheduler"]["scheduler"]
        moved = parameters_to_vector(module.parameters()).detach() - start
        norms.append(float(moved.norm()) / schedule.get_last_lr()[0])
    assert norm.mean == pytest.approx(sum(norms) / 2, rel=1e-5)


def test_rivals_begin_with_the_same_weights_and_a_seed_says_all(data: Data):
    def weights(rival: str, seed: int, learning_rate: float) -> torch.Tensor:
        module, _ = fit(TABLE._replace(learning_rate=learning_rate), 4, seed, rival, data)
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    still = 1e-12
    assert torch.allclose(weights("uniform", 0, still), weights("thesis", 0, still), atol=1e-9)
    assert not torch.allclose(weights("uniform", 0, still), weights("uniform", 1, still), atol=1e-3)
    assert torch.equal(weights("thesis", 0, 0.1), weights("thesis", 0, 0.1))
    assert not torch.equal(weights("thesis", 0, 0.1), weights("uniform", 0, 0.1))


def test_a_group_adds_a_line_for_each_cell_and_says_what_failed(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("benchmarks.budgets.training.made", lambda *arguments: data)
    group = Group(TABLE, 0.5, 7, ("uniform", "StratifiedSampling(clusters_per_bin=20)", "rs2"))  # 20 · 2 in 16
    (failure,) = run(group, tmp_path, tmp_path, tmp_path / "budget.csv")
    assert failure.startswith("table, budget 0.5, seed 7, StratifiedSampling(clusters_per_bin=20): ")
    rows = read(tmp_path / "budget.csv")
    assert [(row["rival"], row["seed"], row["steps"]) for row in rows] == [("uniform", "7", "15"), ("rs2", "7", "15")]
    assert len({row["session"] for row in rows}) == 1
    assert all(float(row["seconds"]) > 0 and 0 < float(row["accuracy"]) <= 1 for row in rows)
