import pytest
import torch

from lightning_as.core.draw import effective_sample_size, stratified_uniforms


@pytest.mark.parametrize("size", [1, 7, 60_000])
def test_the_uniform_distribution_is_spread_over_all(size):
    probabilities = torch.full((64,), 1 / size, dtype=torch.float64)
    assert effective_sample_size(probabilities).item() == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_equal_shares_on_m_of_n_instances_are_spread_over_m(count):
    distribution = torch.zeros(20, dtype=torch.float64)
    distribution[:count] = 1 / count
    drawn = torch.multinomial(distribution, 50, replacement=True, generator=torch.Generator().manual_seed(0))
    assert effective_sample_size(distribution[drawn]).item() == pytest.approx(count, rel=1e-12)


def test_the_estimate_from_draws_approaches_one_over_the_sum_of_squares():
    generator = torch.Generator().manual_seed(0)
    distribution = torch.rand(100, dtype=torch.float64, generator=generator).pow(4)
    distribution /= distribution.sum()
    drawn = torch.multinomial(distribution, 200_000, replacement=True, generator=generator)
    expected = float(1 / distribution.square().sum())
    assert 10 < expected < 70  # skewed
    deviation = float(
        (distribution @ distribution.square() - (distribution @ distribution) ** 2).sqrt()
        / (distribution @ distribution)
        / 200_000**0.5
    )
    assert effective_sample_size(distribution[drawn]).item() == pytest.approx(expected, rel=5 * deviation)


@pytest.mark.parametrize("size", [1, 3, 256, 1000])
def test_stratified_uniforms_are_uniform_in_equal_parts(size):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([stratified_uniforms(size, generator) for _ in range(-(-20_000 // size))])
    assert torch.equal((drawn * size).long(), torch.arange(size).expand_as(drawn))
    within = (drawn * size - torch.arange(size)).flatten()
    counts = torch.histc(within, 10, 0, 1)
    assert float(((counts - len(within) / 10) ** 2 / (len(within) / 10)).sum()) < 27.9  # chi-square, p = 1e-3


def test_stratified_uniforms_stay_below_1(monkeypatch: pytest.MonkeyPatch):
    largest = torch.full((256,), 1 - 2**-53, dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: largest.clone())
    assert float(stratified_uniforms(256, torch.Generator()).max()) == 1 - 2**-53
