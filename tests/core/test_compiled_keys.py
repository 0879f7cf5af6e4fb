"""What the loops must refuse; that they are right is tested in test_key_table."""

import numpy as np
import pytest

from lightning_as.core import compiled_keys

KEYS, PLACES = np.array([3, 5]), np.zeros(2, np.int64)


def test_what_does_not_go_together_is_refused():
    for loop in (compiled_keys.find_keys, compiled_keys.insert_keys):
        with pytest.raises(ValueError, match="a place for each key"):
            loop(np.zeros(4, np.int64), KEYS, PLACES[:1])
    for key in (0, -5):
        with pytest.raises(ValueError, match="not positive"):
            compiled_keys.insert_keys(np.zeros(4, np.int64), np.array([3, key]), PLACES)


def test_a_table_that_is_full_ends_every_search():
    slots = np.array([4, 1, 2, 7])
    with pytest.raises(ValueError, match="full"):
        compiled_keys.insert_keys(slots, KEYS, PLACES)
    compiled_keys.find_keys(slots, np.array([5, 7]), PLACES)
    assert PLACES.tolist() == [-1, 3]
