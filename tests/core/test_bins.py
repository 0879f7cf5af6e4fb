from collections.abc import Callable

import pytest
import torch

from lightning_as.core.bins import Bins


def test_labels_and_tags_make_the_same_partition_but_only_labels_are_labels():
    labels = torch.tensor([2, 0, 1, 0, 2, 2], dtype=torch.uint8)
    for bins in (Bins(labels), Bins.from_labels(labels), Bins(labels.tolist())):
        assert bins.sizes == [2, 1, 3]
        assert len(bins) == 6
        assert bins.tags.tolist() == labels.tolist()
    found = Bins.from_labels(labels).labels
    assert found is not None
    assert found.tolist() == [0, 1, 2]
    assert Bins(labels).labels is None
    assert Bins.from_quantiles([1.0, 2.0], 2).labels is None


def test_labels_may_leave_gaps_and_be_negative():
    bins = Bins.from_labels([7, -1, 7, 3])
    assert bins.tags.tolist() == [2, 0, 2, 1]
    assert bins.labels is not None
    assert bins.labels.tolist() == [-1, 3, 7]


def test_of_gives_the_bin_of_each_instance_as_int64():
    tags = torch.randint(4, (50,), generator=torch.Generator().manual_seed(0))
    indices = torch.tensor([3, 3, 49, 0])
    bins = Bins(tags)
    assert torch.equal(bins.of(indices), tags[indices])
    assert bins.of(indices).dtype == torch.int64


def test_order_lists_bin_after_bin_and_keeps_the_order_inside():
    tags = torch.randint(5, (200,), generator=torch.Generator().manual_seed(0))
    assert Bins(tags).order().tolist() == sorted(range(200), key=lambda i: (int(tags[i]), i))


@pytest.mark.parametrize(("size", "count"), [(10, 3), (100, 7), (7, 7), (5, 1), (1, 1), (1001, 10)])
def test_quantiles_are_of_equal_size_within_one_and_ascend(size, count):
    measure = torch.randn(size, generator=torch.Generator().manual_seed(0))
    bins = Bins.from_quantiles(measure, count)
    assert len(bins.sizes) == count
    assert max(bins.sizes) - min(bins.sizes) <= 1
    assert (bins.tags[measure.argsort()].diff() >= 0).all()


def test_quantiles_split_ties_by_position():
    assert Bins.from_quantiles([7, 7, 7, 7, 1, 7], 3).tags.tolist() == [0, 1, 1, 2, 0, 2]
    assert Bins.from_quantiles([0.0] * 4, 4).tags.tolist() == [0, 1, 2, 3]


def test_quantiles_place_infinities_at_the_ends():
    assert Bins.from_quantiles([float("inf"), 0.0, -float("inf"), 1.0], 4).tags.tolist() == [3, 1, 0, 2]


def test_single_is_one_bin_of_all():
    bins = Bins.single(4)
    assert bins.sizes == [4]
    assert bins.tags.tolist() == [0] * 4


NOTHING = torch.empty(0, dtype=torch.int64)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Bins([0, 1, 3, 5]), ValueError, "Bin 2 is empty"),
        (lambda: Bins([0, 1, -3]), ValueError, "must not be negative, got -3 at position 2"),
        (lambda: Bins(torch.zeros(3)), TypeError, "`tags` must be integers, got torch.float32"),
        (lambda: Bins(torch.zeros(3, dtype=torch.complex64)), TypeError, "must be integers"),
        (lambda: Bins.from_labels([0.5]), TypeError, "`labels` must be integers"),
        (lambda: Bins(torch.zeros(3, 1, dtype=torch.int64)), ValueError, "one-dimensional"),
        (lambda: Bins(torch.tensor(1)), ValueError, "one-dimensional"),
        (lambda: Bins(NOTHING), ValueError, "`tags` is empty"),
        (lambda: Bins([0, 1, 1], torch.tensor([0, 1, 2])), ValueError, r"for each of the 2 bins, got \(3,\)"),
        (lambda: Bins.single(0), ValueError, "`size` must be at least 1"),
        (
            lambda: Bins.from_quantiles([1.0, 2.0, 3.0], 0),
            ValueError,
            "`count` must be from 1 to the 3 instances, got 0",
        ),
        (
            lambda: Bins.from_quantiles([1.0, 2.0, 3.0], 4),
            ValueError,
            "`count` must be from 1 to the 3 instances, got 4",
        ),
        (lambda: Bins.from_quantiles(torch.zeros(2, 2), 1), ValueError, "one number per instance"),
        (lambda: Bins.from_quantiles(NOTHING, 1), ValueError, "one number per instance"),
        (lambda: Bins.from_quantiles([1.0, float("nan")], 2), ValueError, "NaN"),
    ],
)
def test_what_is_no_partition_is_refused(make: Callable[[], Bins], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make()
