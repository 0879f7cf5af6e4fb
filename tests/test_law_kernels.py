"""As in test_kernels: the compiled loops against the torch code that they stand for."""

from __future__ import annotations

import pytest
import torch

from lightning_as import compiled
from lightning_as.bins import Bins
from lightning_as.smoothed_where_drawn import SmoothedWhereDrawn
from lightning_as.strategies import AdaptiveSampling
from tests.test_kernels import both, seeded, uniforms


@pytest.mark.parametrize("delta_q", [0.0, 0.1, 0.9])
def test_smoothing_where_drawn_is_that_of_torch(monkeypatch, delta_q):
    generator = seeded()
    bins = Bins(torch.randint(5, (600,), generator=generator))
    fast, plain = both(monkeypatch, lambda: SmoothedWhereDrawn(bins, delta_q))
    for step in range(60):
        indices = torch.randint(600, (40,), generator=generator)  # with duplicates
        scores = uniforms(40, generator=generator).pow(8) * 10.0 ** (step // 10 * 8)
        scores[uniforms(40, generator=generator) < 0.2] = 0.0
        if step > 50:
            scores.zero_()
        for law in (fast, plain):
            law.update(indices, bins.of(indices), scores)
        torch.testing.assert_close(fast.probabilities(), plain.probabilities(), rtol=1e-9, atol=1e-300)
    assert torch.equal(fast.state_dict()["unseen"], plain.state_dict()["unseen"])


def test_indices_out_of_range_are_refused(monkeypatch):
    monkeypatch.setattr(compiled, "available", True)
    law = SmoothedWhereDrawn(Bins([0, 1, 1]))
    law.update(torch.arange(3), torch.tensor([0, 1, 1]), torch.ones(3, dtype=torch.float64))
    for index, number in ((-1, 0), (3, 0), (0, -1), (0, 2)):
        with pytest.raises(IndexError):
            law.update(torch.tensor([index]), torch.tensor([number]), torch.ones(1, dtype=torch.float64))


def test_what_is_mixed_in_is_of_all_instances_up_to_the_last(monkeypatch):
    monkeypatch.setattr(compiled, "available", True)
    law, p = SmoothedWhereDrawn(Bins([0, 1, 1])), torch.tensor([0.5, 0.5], dtype=torch.float64)
    draw = law.draw_with_bins(p, p.cumsum(0), uniforms(1 + law.uniforms, 5, generator=seeded()))
    drawn = draw.indices.tolist()
    below = 0.1 * (1 - 2**-53)  # of which the share of the floor rounds to 1
    mixed = torch.tensor([0.0, 0.05, below, 0.1, 0.9], dtype=torch.float64)
    assert law.mix_in_uniform(draw, p, 0.1, mixed)
    assert draw.indices.tolist() == [0, 1, 2, *drawn[3:]]
    assert draw.bins.tolist() == law.bins.of(draw.indices).tolist()
    expected = 0.9 * torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64) + 0.1 / 3
    torch.testing.assert_close(draw.probabilities, expected[draw.indices], rtol=1e-14, atol=0)


@pytest.mark.parametrize("q_update", ["drawn", "all"])
@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_a_strategy_draws_and_learns_as_with_torch(monkeypatch, q_update, floor):
    bins = Bins(torch.arange(3000) % 7)
    strategies = both(monkeypatch, lambda: AdaptiveSampling(q_update=q_update, floor=floor))
    generators = [seeded(3), seeded(3)]
    for strategy, available in zip(strategies, (True, False), strict=True):
        monkeypatch.setattr(compiled, "available", available)
        strategy.start(bins)
    losses = torch.rand(3000, dtype=torch.float64, generator=seeded(4)).pow(4)
    for _ in range(50):
        draws = [strategy.draw(64, generator) for strategy, generator in zip(strategies, generators, strict=True)]
        assert torch.equal(draws[0].indices, draws[1].indices)
        assert torch.equal(draws[0].bins, draws[1].bins)
        for ours, theirs in zip(draws[0][2:4], draws[1][2:4], strict=True):
            assert ours is not None
            assert theirs is not None
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)
        for strategy, draw in zip(strategies, draws, strict=True):
            strategy.update(draw, losses[draw.indices], losses[draw.indices].sqrt())
