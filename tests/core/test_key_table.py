import copy
from typing import Any

import numpy as np
import pytest
import torch

from lightning_as.core.key_table import KeyTable, hash_of
from tests.helpers.statistics import saved

pytestmark = pytest.mark.usefixtures("execution")


def test_it_is_a_dict():
    """Few different low bits, so that runs of slots are long, and keys that come twice in a batch."""
    source, table, oracle = np.random.default_rng(0), KeyTable(), dict[int, int]()
    for step in range(100):
        keys = source.integers(1, 200, 20) + (source.integers(0, 6, 20) << 40)
        values = source.integers(1, 2**15, 20)
        places = table.insert(keys)
        table.values[places] = values
        oracle |= dict(zip(keys.tolist(), values.tolist(), strict=True))
        asked = source.integers(0, 200, 40) + (source.integers(0, 6, 40) << 40)
        found = table.find(asked)
        assert [int(table.values[at]) if at >= 0 else None for at in found] == [oracle.get(key) for key in asked]
        assert len(table) == len(oracle), step
    assert len(oracle) > 900
    assert len(oracle) <= 0.75 * table.slots < 2.1 * len(oracle)


def test_a_state_is_sorted_has_what_has_a_value_and_makes_an_equal_table():
    source, tables = np.random.default_rng(1), (KeyTable(), KeyTable())
    keys = np.unique(source.integers(1, 2**63 - 1, 500))
    for table, order in zip(tables, (keys, source.permutation(keys)), strict=True):
        places = table.insert(order)
        table.values[places] = order % 100 + 1
        table.insert(np.array([1, 2, 3]))
    states = [table.state_dict() for table in tables]
    assert states[0]["keys"].tolist() == sorted(keys.tolist())
    assert all(torch.equal(one, other) for one, other in zip(*map(dict.values, states), strict=True))
    again = KeyTable()
    again.load_state_dict(saved(states[0]))
    assert len(again) == len(keys)
    assert again.values[again.find(keys)].tolist() == (keys % 100 + 1).tolist()
    twin = copy.deepcopy(again)
    twin.values[twin.find(keys[:1])] = 7000
    assert int(again.values[again.find(keys[:1])][0]) != 7000


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [([2, 1], [1, 1], "ascending"), ([0, 1], [1, 1], "positive"), ([1, 1], [1, 1], "ascending"), ([1], [0], "meaning")],
)
def test_a_damaged_state_is_refused(keys: list[int], values: list[int], message: str):
    state = {"keys": torch.tensor(keys), "values": torch.tensor(values, dtype=torch.int16)}
    with pytest.raises(ValueError, match=message):
        KeyTable().load_state_dict(state)


def test_marks_tell_what_has_come_in_this_pass_however_many_there_are():
    table, keys = KeyTable(), np.arange(1, 101)
    assert table.mark(np.array([5, 6, 5])).tolist() == [False, False, True]
    for _ in range(600):
        table.begin_pass()
        assert not table.mark(keys).any()
        assert table.mark(keys[:3]).all()


def test_keys_of_three_kinds_have_hashes_of_their_own_that_stay():
    keys: list[Any] = ["1", b"1", 1, "", b"", 0, -1, "ä", "\udc80", 2**80]
    hashes = [hash_of(key) for key in keys]
    assert len(set(hashes)) == len(keys)
    assert all(0 < one < 2**63 for one in hashes)
    assert hash_of(np.int32(1)) == hash_of(torch.tensor(1)) == hash_of(1)
    assert hash_of("000123") == 1528475012149582753  # in any process, for ever


@pytest.mark.parametrize("key", [None, 1.5, True, ["a", "b"], torch.zeros(2), ("a", 1)])
def test_what_is_no_key_is_refused(key: Any):
    with pytest.raises(TypeError, match=r"A key must be a string, bytes or a whole number, .* got the .*`key`"):
        hash_of(key)
