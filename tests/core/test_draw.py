import pytest
import torch
from torch import Tensor

from lightning_as.core.draw import effective_sample_size, stratified_uniforms
from tests.helpers.statistics import double, seeded


@pytest.mark.parametrize(
    ("weights", "expected"),
    [(torch.ones(1), 1), (torch.ones(60_000), 60_000), (double(1, 1, 1, 0), 3), (double(9, 4, 1, 0), 196 / 98)],
    ids=["one", "all", "three of four", "skewed"],
)
def test_the_estimate_from_draws_approaches_one_over_the_sum_of_squares(weights: Tensor, expected: float):
    distribution = weights.double() / weights.sum()
    drawn = torch.multinomial(distribution, 200_000, replacement=True, generator=seeded())
    variance = (distribution @ distribution.square() - (distribution @ distribution).square()).clamp(min=0)
    tolerance = 5 * float((variance / 200_000).sqrt()) * expected + 1e-6
    assert effective_sample_size(distribution[drawn]).item() == pytest.approx(expected, rel=tolerance)


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
