import pytest
import torch

from lightning_as.core.draw import effective_sample_size, stratified_uniforms
from tests.helpers.statistics import seeded


@pytest.mark.parametrize(("size", "count"), [(1, 1), (20, 1), (20, 3), (60_000, 60_000)])
def test_equal_shares_on_m_of_n_instances_are_spread_over_m(size: int, count: int):
    distribution = torch.zeros(size, dtype=torch.float64)
    distribution[:count] = 1 / count
    drawn = torch.multinomial(distribution, 50, replacement=True, generator=seeded())
    assert effective_sample_size(distribution[drawn]).item() == pytest.approx(count, rel=1e-12)


def test_the_estimate_from_draws_approaches_one_over_the_sum_of_squares():
    distribution = torch.rand(100, dtype=torch.float64, generator=seeded()).pow(4)
    distribution /= distribution.sum()
    drawn = torch.multinomial(distribution, 200_000, replacement=True, generator=seeded(1))
    mean = distribution @ distribution
    deviation = float((distribution @ distribution.square() - mean**2).sqrt() / mean / 200_000**0.5)
    assert 10 < 1 / mean < 70  # skewed
    assert effective_sample_size(distribution[drawn]).item() == pytest.approx(float(1 / mean), rel=5 * deviation)


@pytest.mark.parametrize("size", [1, 3, 256, 1000])
def test_stratified_uniforms_are_uniform_in_equal_parts(size, monkeypatch: pytest.MonkeyPatch):
    generator = seeded()
    drawn = torch.stack([stratified_uniforms(size, generator) for _ in range(-(-20_000 // size))])
    assert torch.equal((drawn * size).long(), torch.arange(size).expand_as(drawn))
    within = (drawn * size - torch.arange(size)).flatten()
    counts = torch.histc(within, 10, 0, 1)
    assert float(((counts - len(within) / 10) ** 2 / (len(within) / 10)).sum()) < 27.9  # chi-square, p = 1e-3
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.full((size,), 1 - 2**-53, dtype=torch.float64))
    assert stratified_uniforms(size, generator).max() == 1 - 2**-53
