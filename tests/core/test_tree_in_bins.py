import pickle

import pytest
import torch

from lightning_as.core.bins import Bins
from lightning_as.core.tree_in_bins import TreeInBins, last_occurrence
from tests.helpers.statistics import double, saved, seeded

pytestmark = pytest.mark.usefixtures("execution")

TAGS = torch.arange(4).repeat_interleave(torch.tensor([40, 1, 300, 9]))[torch.randperm(350, generator=seeded())]


def test_weights_are_those_of_the_instances_however_they_were_set():
    inside, generator = TreeInBins(Bins(TAGS), leaf=(1.0, 5.0)), seeded(1)
    weights = torch.rand(350, generator=generator).pow(8).double()  # that are kept as they are
    inside.load(weights)
    for _ in range(20):
        indices = torch.randint(350, (30,), generator=generator)  # of duplicates the last counts
        values = torch.rand(30, generator=generator).double()
        inside.set(indices, values)
        for index, value in zip(indices.tolist(), values, strict=True):
            weights[index] = value
    q = weights / torch.zeros(4, dtype=torch.float64).index_add_(0, TAGS, weights)[TAGS]
    torch.testing.assert_close(inside.probabilities(), q, rtol=1e-12, atol=0)
    leaves = inside.state_dict()["leaves"]
    assert torch.equal(leaves[:, 0], weights[Bins(TAGS).order()])
    assert (leaves[:, 1] == 5).all()
    other = TreeInBins(Bins(TAGS), leaf=(1.0, 0.0))
    other.load_state_dict(saved(inside.state_dict()))
    assert torch.equal(other.probabilities(), inside.probabilities())


def test_a_copy_learns_and_draws_by_itself():
    inside = TreeInBins(Bins(TAGS))
    inside.set(torch.tensor([0]), double(2))  # by whatever a copy must not share
    twin = pickle.loads(pickle.dumps(inside))
    twin.load(torch.zeros(350, dtype=torch.float64).index_fill_(0, torch.tensor([3, 5, 9, 11]), 1) + (TAGS == 1))
    twin.set(torch.tensor([3]), double(3))
    assert not torch.equal(inside.probabilities(), twin.probabilities())
    assert inside.probabilities()[0] == pytest.approx(2 / (1 + [40, 1, 300, 9][TAGS[0]]))


@pytest.mark.parametrize(("leaves", "message"), [(-1.0, "negative"), (0.0, "a bin without weight")])
def test_a_state_that_no_one_could_draw_from_is_refused(leaves: float, message: str):
    inside = TreeInBins(Bins([0, 1, 1]))
    with pytest.raises(ValueError, match=message):
        inside.load_state_dict({"leaves": double(1, leaves, leaves).unsqueeze(1)})


def test_the_last_occurrence_of_each_entry_and_of_the_known_ones_before_others():
    entries = torch.tensor([5, 2, 5, 7, 2, 5])
    assert last_occurrence(entries).tolist() == [5, 4, 5, 3, 4, 5]
    known = torch.tensor([True, True, True, False, False, False])
    assert last_occurrence(entries, known).tolist() == [2, 1, 2, 3, 1, 2]
