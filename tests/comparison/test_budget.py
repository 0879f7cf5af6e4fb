import itertools

import pytest

from lightning_as.comparison.budget import NOISE, Length, equal_time_share


def test_epochs_stay_and_become_shorter():
    assert Length(1170, 234, 5, -1).scaled(0.97) == {"max_epochs": 5, "limit_train_batches": 227}
    assert Length(1170, 234, 5, 9000).scaled(0.5) == {"max_epochs": 5, "limit_train_batches": 117}
    assert Length(1170, 234, 5, -1).scaled(1.0) == {"max_epochs": 5, "limit_train_batches": 234}
    assert Length(1170, 234, 5, -1).scaled(1e-9) == {"max_epochs": 1, "limit_train_batches": 1}
    assert Length(600, 6, 100, -1).scaled(0.9) == {"max_epochs": 107, "limit_train_batches": 5}


def test_the_number_of_steps_is_met_as_well_as_whole_epochs_can():
    for epochs, epoch, percent in itertools.product((1, 2, 7, 100), (1, 6, 41, 234), range(3, 101, 4)):
        options = Length(epochs * epoch, epoch, epochs, -1).scaled(percent / 100)
        wanted = max(1, round(percent / 100 * epochs * epoch))
        assert 1 <= options["limit_train_batches"] <= epoch
        error = abs(options["max_epochs"] * options["limit_train_batches"] - wanted)
        assert error <= max(NOISE * wanted, options["max_epochs"] / 2)
        if epochs <= wanted <= epochs * epoch:
            near = [count for count in range(1, 2 * epochs + 1) if abs(count - epochs) <= epochs / 10]
            assert options["max_epochs"] in near
            best = min(abs(count * length - wanted) for count in near for length in range(1, epoch + 1))
            assert error <= max(NOISE * wanted, best)
        if wanted >= 50 * epochs:
            assert options["max_epochs"] == epochs


def test_steps_that_end_a_training_are_scaled():
    assert Length(1000, 234, -1, 1000).scaled(0.97) == {"max_steps": 970}
    assert Length(1000, 234, 5, 1000).scaled(0.97) == {"max_steps": 970}


@pytest.mark.parametrize(
    ("uniform", "other", "share"),
    [
        ((0.0, 100.0), (0.0, 125.0), 0.8),
        ((1.0, 99.0), (20.0, 100.0), 0.8),
        ((0.0, 100.0), (0.0, 80.0), 1.0),  # rather a strategy at a disadvantage than epochs that nobody asked for
        ((0.0, 100.0), (0.0, 100.9), 1.0),
        ((0.0, 100.0), (0.0, 99.2), 1.0),
        ((0.0, 10.0), (11.0, 10.0), 1 / 50),  # what comes before the first step takes longer than all of uniform's
    ],
)
def test_equal_time_counts_the_start_and_knows_noise(uniform: tuple, other: tuple, share: float):
    assert equal_time_share([uniform], [other], steps=50) == pytest.approx(share)


def test_the_share_is_the_median_of_the_seeds():
    times = [(0.0, 100.0)] * 3
    assert equal_time_share(times, [(0.0, 125.0), (0.0, 9999.0), (0.0, 20.0)], steps=50) == pytest.approx(0.8)
