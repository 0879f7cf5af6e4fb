from itertools import product

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn

from lightning_as.models.evaluation import Instances
from thesis.gradients import inputs_of, probe, whole_gradients
from thesis.results import PROBED


def trace(outcomes: Tensor, probabilities: Tensor) -> float:
    """Of the covariance of an estimate with these outcomes, (n, D)."""
    return float(probabilities @ (outcomes - probabilities @ outcomes).square().sum(1))


def made(size: int = 7, seed: int = 0) -> tuple[Instances, Tensor, Tensor, Tensor, Tensor]:
    """Losses and gradients, features, a distribution, labels, and the gradients of the last layer, (N, D)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(size, 3, generator=generator, dtype=torch.float64)
    targets, features = torch.arange(size) % 3, torch.randn(size, 4, generator=generator)
    layer = nn.Linear(4, 3, dtype=torch.float64)
    gradients = []
    for z, y, h in zip(logits, targets, features.double(), strict=True):
        shift = z - layer(h).detach()
        loss = nn.functional.cross_entropy(layer(h) + shift, y)
        gradients.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(layer.parameters()))]))
    found = Instances(
        nn.functional.cross_entropy(logits, targets, reduction="none"), logits.softmax(1) - torch.eye(3)[targets]
    )
    own = torch.rand(size, generator=generator, dtype=torch.float64) + 0.1
    return found, features, own / own.sum(), targets % 2, torch.stack(gradients)


def test_the_ratios_are_those_of_the_covariances():
    found, features, own, labels, gradients = made()
    size, norms, bounds = len(own), gradients.norm(dim=1), found.gradients.norm(dim=1)
    p = torch.stack([own[labels == j].sum() for j in (0, 1)])
    uniform = torch.full_like(own, 1 / size)
    expected = {"own": own, "own_floor": 0.9 * own + 0.1 * uniform}
    expected |= {"loss": found.losses, "bound": bounds, "norm": norms}
    for name in ("loss", "bound", "norm"):
        score = expected[name]
        sums = torch.stack([score[labels == j].sum() for j in (0, 1)])
        expected[f"q_{name}"] = p[labels] * score / sums[labels]
    expected["p_sizes"] = own / p[labels] * torch.tensor([5 / 7, 2 / 7], dtype=torch.float64)[labels]
    measured = probe(found, features, own, labels, 2)
    layer = trace(gradients, uniform)
    assert measured["variance_layer"] == pytest.approx(layer)
    for name, r in expected.items():
        r = r / r.sum()
        ratio = trace(gradients / (size * r)[:, None], r) / layer
        assert measured[f"ratio_{name}"] == pytest.approx(ratio, rel=1e-9), name
    # No other P is better with its Q, and nothing than the norms.
    best = [
        trace(gradients / (size * r)[:, None], r) / layer
        for share in torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
        for r in [own / p[labels] * torch.stack([share, 1 - share])[labels]]
    ]
    assert measured["ratio_p_best"] == pytest.approx(min(best), rel=1e-5)
    assert measured["ratio_norm"] == min(value for name, value in measured.items() if name.startswith("ratio_"))
    logits = found.gradients.square().sum(1)
    assert measured["moment_logits"] == pytest.approx(float((logits / own).sum() / size / logits.sum()))
    assert measured["rank_loss_bound"] == pytest.approx(spearmanr(found.losses, bounds)[0])


def test_the_presampled_estimate_is_enumerated():
    found, features, own, labels, gradients = made(3)
    bounds, outcomes, probabilities = found.gradients.norm(dim=1), [], []
    for candidates in product(range(3), repeat=6):
        at = torch.tensor(candidates)
        chances = bounds[at] / bounds[at].sum()
        for chosen in product(range(6), repeat=2):
            outcomes.append(sum(gradients[at[i]] / (6 * chances[i]) for i in chosen) / 2)
            probabilities.append(float(chances[list(chosen)].prod()) / 3**6)
    estimate = trace(torch.stack(outcomes), torch.tensor(probabilities, dtype=torch.float64))
    uniform = trace(gradients, torch.full((3,), 1 / 3, dtype=torch.float64)) / 2
    assert probe(found, features, own, labels, 2)["ratio_presample"] == pytest.approx(estimate / uniform, rel=1e-9)


def norm(network: nn.Module, one: Tensor, target: Tensor) -> float:
    loss = nn.functional.cross_entropy(network(one[None]), target[None])
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return float(torch.cat([part.flatten() for part in gradients]).norm())


def test_whole_gradients_are_those_of_autograd_one_by_one():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval()
    inputs, targets = torch.randn(9, 1, 4, 4), torch.arange(9) % 3
    with inputs_of(network[-1]) as features:
        logits = network(inputs).detach()
    torch.testing.assert_close(features[0], network[:-1](inputs).detach())
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    norms = torch.tensor([norm(network, one, target) for one, target in zip(inputs, targets, strict=True)])
    gradients = (logits.softmax(1) - torch.eye(3)[targets]).double()
    found = whole_gradients(network, inputs, losses, gradients)
    bounds = gradients.norm(dim=1)
    factors = (norms / bounds).sort().values
    assert found["factor_median"] == pytest.approx(float(factors[4]), rel=1e-4)
    assert found["rank_bound_norm"] == pytest.approx(spearmanr(bounds, norms)[0])
    assert found["rank_loss_norm"] == pytest.approx(spearmanr(losses, norms)[0])
    assert found["pearson_bound_norm"] == pytest.approx(pearsonr(bounds, norms)[0], rel=1e-4)
    assert found["pearson_loss_norm"] == pytest.approx(pearsonr(losses, norms)[0], rel=1e-4)


def test_every_column_is_measured_but_for_what_batches_say():
    found, features, own, labels, _ = made()
    network = nn.Linear(4, 3)
    names = probe(found, features, own, labels, 2) | whole_gradients(network, features, found.losses, found.gradients)
    assert set(names) | {"moment_batch"} == set(PROBED)
