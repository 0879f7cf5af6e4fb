import math
from typing import Any

import pytest
import torch

from lightning_as.core.state import check_layout, check_sums, checksums, require_indices
from tests.helpers.statistics import double

LIKE: dict[str, Any] = {
    "option": "a",
    "count": 1,
    "known": True,
    "share": 0.5,
    "weights": torch.ones(3),
    "order": torch.empty(0, dtype=torch.int64),
    "squares": double(math.nan, 1),
    "rows": [],
    "parts": [{"step": 0}],
    "unknown": None,
}
STATE = LIKE | {"order": torch.arange(4), "rows": [torch.arange(2)], "unknown": double(1), "squares": double(2, 1)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"option": "b"}, "another `option`, 'b', but here it is 'a': use the one it was saved with"),
        ({"count": True}, "`state.count` is a bool, not a int"),
        ({"count": -1}, "`state.count` is -1"),
        ({"known": 1}, "`state.known` is a int, not a bool"),
        ({"share": math.inf}, "`state.share` is inf"),
        ({"weights": [1.0]}, "`state.weights` is a list, not a tensor"),
        ({"weights": torch.ones(2)}, r"`state.weights` has the shape \(2,\), not \(3,\)"),
        ({"weights": torch.ones(3).double()}, "`state.weights` is of torch.float64, not torch.float32"),
        ({"weights": torch.tensor([1, math.nan, 1])}, "`state.weights` has NaN entries"),
        ({"squares": double(1, math.inf)}, "`state.squares` has infinite entries"),
        ({"order": torch.tensor([-1])}, "`state.order` has negative entries"),
        ({"order": torch.ones(1, 1).long()}, r"`state.order` has the shape \(1, 1\)"),
        ({"rows": {}}, "`state.rows` is a dict, not a list"),
        ({"parts": []}, "`state.parts` has 0 entries, not 1"),
        ({"parts": [3]}, "`state.parts.0` is a int, not a dict"),
        ({"parts": [{}]}, "`state.parts.0.step` is missing"),
        ({"more": 1}, "`state.more` does not belong there"),
    ],
)
def test_a_state_of_another_layout_is_refused_with_what_and_what_to_do(changes: dict[str, Any], message: str):
    check_layout(STATE, LIKE)
    with pytest.raises(ValueError, match=message):
        check_layout(STATE | changes, LIKE)


def test_a_checksum_tells_every_part_from_every_other():
    sums = checksums(STATE)
    check_sums(STATE, sums)
    others = {"weights": torch.ones(3, 1), "squares": double(2, 1).long(), "count": 2, "known": 1, "rows": []}
    for key, part in others.items():
        with pytest.raises(ValueError, match=rf"damaged: `{key}.* Load another checkpoint"):
            check_sums(STATE | {key: part}, sums)
    flipped = STATE["squares"].clone()
    flipped.view(torch.uint8)[5] ^= 1
    with pytest.raises(ValueError, match="`squares` is not what was saved"):
        check_sums(STATE | {"squares": flipped}, sums)
    with pytest.raises(ValueError, match="`weights` is missing"):
        check_sums({key: part for key, part in STATE.items() if key != "weights"}, sums)
    with pytest.raises(ValueError, match="its `checksums` are gone"):
        check_sums(STATE, None)


def test_indices_are_of_instances_that_there_are():
    require_indices("left", torch.tensor([0, 4]), 5)
    require_indices("left", torch.empty(0, dtype=torch.int64), 5)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=r"`left` has .* not numbers below 5"):
            require_indices("left", torch.tensor([1, wrong]), 5)
