from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_as.core.key_table import hash_of
from lightning_as.data.candidates import Candidates, Keyed, pack
from tests.helpers.tiny import differences

Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    "make",
    [
        lambda i: torch.full((2, 3), i),
        lambda i: torch.arange(i + 1),  # of different lengths
        lambda i: torch.tensor(i, dtype=torch.int64 if i % 2 else torch.int32),
        lambda i: {"x": torch.ones(3) * i, "name": str(i), "of": {"list": [i, torch.tensor(i)]}},
        lambda i: {"x": i} if i % 2 else {"y": i},
        lambda i: (torch.tensor(i), i, None),
        lambda i: [torch.tensor(i)] * i,
        lambda i: {},
        lambda i: [],
        lambda i: Pair(torch.tensor(i), i),
        lambda i: torch.ones(2).to_sparse() * i,
        lambda i: i if i % 2 else torch.tensor(i),
    ],
)
def test_what_was_packed_is_what_was(make: Callable[[int], Any]):
    at = [3, 0, 0, 4]
    packed = Candidates(torch.arange(5), list(range(5)), pack([make(i) for i in range(5)])).take(torch.tensor(at))
    plain = Candidates(torch.arange(5), list(range(5)), [make(i) for i in range(5)]).take(torch.tensor(at))
    for one, other in zip(packed, plain, strict=True):
        assert type(one) is type(other)
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one.to_dense(), other.to_dense())
        else:
            assert differences(one, other) == []


@pytest.mark.parametrize(
    ("key", "sample"),
    [
        ("id", {"id": "a7", "x": 1}),
        (1, (0.5, "a7")),
        (lambda sample: sample["a"] + str(sample["b"]), {"a": "a", "b": 7}),
    ],
)
def test_a_key_is_found_and_hashed(key: Any, sample: Any):
    found = Keyed(key)([sample, sample])
    assert found.names == ["a7", "a7"]
    assert found.keys.tolist() == [hash_of("a7")] * 2
    assert found.samples == [sample, sample]


@pytest.mark.parametrize(
    ("key", "sample", "message"),
    [
        ("id", {"x": 1}, r"`key='id'` is not in a sample, which has the keys \['x'\]: name .*`key='__key__'`"),
        ("id", (1, 2), "which has type tuple"),
        (2, (1, 2), "`key=2` is not in a sample"),
        ("x", {"x": ["a", "b"]}, "A key must be a string, .* single samples, not batches"),
    ],
)
def test_a_sample_without_a_key_is_refused(key: Any, sample: Any, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        Keyed(key)([sample])
