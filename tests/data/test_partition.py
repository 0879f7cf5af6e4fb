from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from lightning_as import AdaptiveDataLoader, Bins, make_bins
from lightning_as.data.partition import size_of

N = 24
CLASSES = [1, 0, 0, 2] * 6
HALVES = [at // 12 for at in range(N)]


class Numbers(Dataset[Any]):
    def __init__(self, **columns: Any) -> None:
        self.__dict__ |= {"labels": torch.tensor([2, 5, 9])[CLASSES], "source": [3 * half for half in HALVES]} | columns

    def __len__(self) -> int:
        return N


def halves(dataset: Dataset[Any]) -> list[int]:
    return [at * 2 // size_of(dataset) for at in range(size_of(dataset))]


@pytest.mark.parametrize(
    ("bins", "tags", "labels"),
    [
        ("label", CLASSES, [2, 5, 9]),
        ("labels", CLASSES, None),
        ("source", HALVES, None),
        ("single", [0] * N, None),
        (None, [0] * N, None),
        ([-half for half in HALVES], [1 - half for half in HALVES], None),
        (["cat" if half else "dog" for half in HALVES], [1 - half for half in HALVES], None),
        (halves, HALVES, None),
        (lambda dataset: dataset.labels, CLASSES, None),
        (lambda dataset: Bins.from_labels(dataset.labels), CLASSES, [2, 5, 9]),
    ],
)
def test_the_bins_can_be_given_in_many_forms(bins: Any, tags: list[int], labels: list[int] | None):
    for made in (make_bins(Numbers(), bins), AdaptiveDataLoader(Numbers(), 4, bins).sampler.bins):
        assert made.tags.tolist() == tags
        assert (None if made.labels is None else made.labels.tolist()) == labels
    given = Bins(tags)
    assert make_bins(Numbers(), given) is make_bins(Numbers(), lambda dataset: given) is given


def test_strings_are_no_labels_that_a_batch_could_be_compared_with():
    made = make_bins(Numbers(labels=["abc"[one] for one in CLASSES]), "label")
    assert (made.tags.tolist(), made.labels) == (CLASSES, None)


@pytest.mark.parametrize(
    ("labels", "found"),
    [(torch.rand(N), "`labels` holds floats"), (None, "it has no attribute or column `targets` or .* or `_labels`")],
)
def test_without_labels_there_is_one_bin_and_a_warning(labels: Any, found: str):
    dataset = Numbers(labels=labels)
    with pytest.warns(UserWarning, match=rf"in the Numbers: {found}, so all .* one bin. .*`Bins.from_quantiles\(meas"):
        assert make_bins(dataset, "label").sizes == [N]
    with pytest.raises(ValueError, match=r"`bins='labels'` found no .*Numbers: (`labels` holds|it has no attribute)"):
        make_bins(dataset, "labels")


def test_a_bin_for_each_instance_is_warned_of():
    for dataset, bins in ((Numbers(), range(N)), (Numbers(labels=torch.arange(N)), "label")):
        with pytest.warns(UserWarning, match=r"There are 24 bins for 24 instances: .*`bins=Bins.from_quantiles\("):
            assert len(make_bins(dataset, bins).sizes) == N
    assert len(make_bins(Numbers(), Bins(range(N))).sizes) == N


@pytest.mark.parametrize(
    ("bins", "error", "message"),
    [
        ("colour", ValueError, "in the Numbers: it has no attribute or column `colour`. Give the bin of each"),
        ([0] * 7, ValueError, "`bins` are of 7 instances, but the data set has 24"),
        (torch.rand(N), TypeError, r"given as `bins` holds floats: .* whole number \(integer\) .*`Bins.from_quantiles"),
        (3, TypeError, "`bins` is a int that is no row"),
    ],
)
def test_bad_bins(bins: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make_bins(Numbers(), bins)
