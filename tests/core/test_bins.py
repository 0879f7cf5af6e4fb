import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_as.core.bins import Bins
from tests.helpers.statistics import seeded

INF, NOTHING = float("inf"), torch.empty(0, dtype=torch.int64)


def test_labels_and_tags_make_the_same_partition_but_only_labels_are_labels_which_may_have_gaps():
    labels = torch.tensor([2, 0, 1, 0, 2, 2], dtype=torch.uint8)
    for bins in (Bins(labels), Bins.from_labels(labels), Bins(labels.tolist())):
        assert bins.sizes == [2, 1, 3]
        assert len(bins) == 6
        assert bins.tags.tolist() == labels.tolist()
    assert Bins(labels).labels is Bins.from_quantiles([1.0, 2.0], 2).labels is None
    assert (Bins.single(4).sizes, Bins.single(4).tags.tolist()) == ([4], [0] * 4)
    with_gaps = Bins.from_labels([7, -1, 7, 3])
    assert with_gaps.tags.tolist() == [2, 0, 2, 1]
    assert isinstance(with_gaps.labels, Tensor)
    assert with_gaps.labels.tolist() == [-1, 3, 7]


def test_of_gives_bins_as_int64_and_the_order_lists_one_after_another_and_keeps_the_order_inside():
    tags, indices = torch.randint(5, (200,), generator=seeded()), torch.tensor([3, 3, 199, 0])
    bins = Bins(tags)
    assert torch.equal(bins.of(indices), tags[indices])
    assert bins.of(indices).dtype == torch.int64
    assert bins.order().tolist() == sorted(range(200), key=lambda i: (int(tags[i]), i))


@pytest.mark.parametrize(("size", "count"), [(10, 3), (100, 7), (7, 7), (5, 1), (1, 1), (1001, 10)])
def test_quantiles_are_of_equal_size_within_one_and_ascend(size, count):
    measure = torch.randn(size, generator=seeded())
    bins = Bins.from_quantiles(measure, count)
    assert len(bins.sizes) == count
    assert max(bins.sizes) - min(bins.sizes) <= 1
    assert (bins.tags[measure.argsort()].diff() >= 0).all()


def test_quantiles_split_ties_by_position_and_place_infinities_at_the_ends():
    assert Bins.from_quantiles([7, 7, 7, 7, 1, 7], 3).tags.tolist() == [0, 1, 1, 2, 0, 2]
    assert Bins.from_quantiles([0.0] * 4, 4).tags.tolist() == [0, 1, 2, 3]
    assert Bins.from_quantiles([INF, 0.0, -INF, 1.0], 4).tags.tolist() == [3, 1, 0, 2]


def test_columns_of_numbers_in_any_form():
    measure = [0.5, 0.1, 0.9, 0.2]
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(measure, index=[7, 3, 1, 2])
    for form in (measure, np.array(measure), torch.tensor(measure)[:, None], column, column.astype("Float64")):
        assert Bins.from_quantiles(form, 2).tags.tolist() == [1, 0, 1, 0]
    assert Bins(column > 0.3).tags.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (Bins, [[0, 1, 3, 5]], ValueError, "Bin 2 is empty"),
        (Bins, [[0, 1, -3]], ValueError, "must not be negative, got -3 at position 2"),
        (Bins, [torch.zeros(3)], TypeError, "`tags` must be integers, got torch.float32"),
        (Bins, [torch.zeros(3, dtype=torch.complex64)], TypeError, "must be integers"),
        (Bins.from_labels, [[0.5]], TypeError, "`labels` must be integers"),
        (Bins, [torch.zeros(3, 1, dtype=torch.int64)], ValueError, "one-dimensional"),
        (Bins, [torch.tensor(1)], ValueError, "one-dimensional"),
        (Bins, [NOTHING], ValueError, "`tags` is empty"),
        (Bins, [[0, 1, 1], torch.tensor([0, 1, 2])], ValueError, r"for each of the 2 bins, got \(3,\)"),
        (Bins, [["a", "b"]], TypeError, "`tags` must be numbers, got a list"),
        (Bins.single, [0], ValueError, "`size` must be at least 1"),
        (Bins.from_quantiles, [[1.0, 2.0, 3.0], 0], ValueError, "`count` must be from 1 to the 3 .*, got 0"),
        (Bins.from_quantiles, [[1.0, 2.0, 3.0], 4], ValueError, "`count` must be from 1 to the 3 .*, got 4"),
        (Bins.from_quantiles, [torch.zeros(2, 2), 1], ValueError, "one number per instance"),
        (Bins.from_quantiles, [NOTHING, 1], ValueError, "one number per instance"),
        (Bins.from_quantiles, [[1.0, float("nan")], 2], ValueError, "NaN"),
    ],
)
def test_what_is_no_partition_is_refused(make, arguments, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make(*arguments)
