import pytest
import torch
from torch import Tensor

from lightning_as.core.persistence import Persistence
from tests.helpers.statistics import double

CPU = torch.device("cpu")


class Visits(Persistence):
    """All instances are visited at a time, and it is kept what they seemed."""

    def __init__(self, size: int) -> None:
        super().__init__(size, CPU)
        self.seemed = torch.zeros(size, dtype=torch.bool)

    def visit(self, v: Tensor) -> None:
        seems, known = v < 0.1, v.isfinite()
        self.observe(self.seemed, seems, known, torch.full_like(v, 1 / len(v)))
        self.seemed = torch.where(known, seems, self.seemed)


@pytest.mark.parametrize(
    ("v", "then", "h", "k", "c"),
    [
        (0.5, 0.5, 0.0, 1.0, 0.0),  # known
        (0.05, 0.5, 0.75 / 1.75, 0.0, 0.0),  # hard: it gets better
        (0.05, 0.05, 1.0, 1.0, 1.0),  # wrong: it stays
    ],
)
def test_what_stays_hopeless_asks_for_caution(v: float, then: float, h: float, k: float, c: float):
    persistence = Visits(8)
    assert (float(persistence.share), float(persistence.staying), float(persistence.caution)) == (0, 1, 0)
    persistence.visit(torch.full((8,), v).double())
    persistence.estimate(first=True)
    assert float(persistence.caution) == float(v < 0.1)  # careful, until something has been seen twice
    persistence.visit(torch.full((8,), then).double())
    persistence.estimate(first=False)
    assert float(persistence.share) == pytest.approx(h)
    assert float(persistence.staying) == k
    assert float(persistence.caution) == c


def test_caution_is_in_proportion():
    persistence = Visits(100)
    persistence.visit(torch.where(torch.arange(100) < 5, 0.01, 0.5).double())
    persistence.estimate(first=True)
    assert float(persistence.caution) == pytest.approx(0.5)  # of h, 5 %
    persistence.visit(torch.where(torch.arange(100).sub(2).abs() < 3, 0.01, 0.5).double())  # all five again
    persistence.visit(torch.where((torch.arange(100) < 6) & (torch.arange(100) > 3), 0.01, 0.5).double())  # one
    persistence.estimate(first=False)
    assert float(persistence.staying) == pytest.approx(6 / 10)
    assert float(persistence.share) == pytest.approx((0.75 * 5 + 7) / (75 + 200))
    assert float(persistence.caution) == pytest.approx(((0.75 * 5 + 7) / 275 - 0.02) / 0.06 / 2)


def test_learned_wrong_labels_do_not_lower_it_but_in_a_first_pass():
    persistence = Visits(4)
    for v, first, expected in ((0.01, False, 1), (0.01, False, 1), (0.9, False, 1), (0.9, True, 0)):
        persistence.visit(torch.full((4,), v).double())
        persistence.estimate(first)
        assert float(persistence.caution) == expected
    persistence.begin()
    assert float(persistence.caution) == 0


def test_the_sums_are_unbiased():
    """Their expectations by enumeration: each instance by itself, weighted by its r."""
    r, seemed = torch.arange(1, 11).double() / 55, torch.arange(10) % 3 == 0
    v = torch.linspace(0, 0.2, 10).double()
    expectation = torch.zeros(4).double()
    for index in range(10):
        persistence = Persistence(10, CPU)
        one = slice(index, index + 1)
        persistence.observe(seemed[one], v[one] < 0.1, torch.tensor([True]), r[one])
        expectation += r[index] * persistence.window
    low = v < 0.1
    expected = double(low.double().mean(), 1, seemed.double().mean(), (low & seemed).double().mean())
    torch.testing.assert_close(expectation, expected)


def test_what_is_not_known_changes_nothing():
    persistence = Visits(3)
    persistence.visit(double(0.01, 0.5, torch.nan))
    before = persistence.window.clone()
    persistence.visit(torch.full((3,), torch.nan).double())
    assert torch.equal(persistence.window, before)


@pytest.mark.parametrize(("name", "value"), [("window", -1), ("sums", -0.1), ("caution", 1.1), ("caution", -0.1)])
def test_a_damaged_state_is_refused(name: str, value: float):
    persistence = Visits(4)
    persistence.visit(torch.full((4,), 0.01).double())
    persistence.estimate(first=True)
    state = persistence.state_dict()
    state[name] = torch.full_like(state[name], value)
    other = Persistence(4, CPU)
    with pytest.raises(ValueError, match=f"`{name}`"):
        other.load_state_dict(state)
    other.load_state_dict(persistence.state_dict())
    assert float(other.caution) == 1
