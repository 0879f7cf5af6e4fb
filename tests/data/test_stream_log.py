from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_as import Draw
from lightning_as.data.stream_log import Origin, Place, Replay, StreamLog, checked, joined, refuse_positions
from tests.helpers.statistics import double


def draw_of(*keys: int) -> Draw:
    ones = torch.ones(len(keys), dtype=torch.float64)
    return Draw(torch.tensor(keys, dtype=torch.int64), torch.zeros(len(keys), dtype=torch.int64), ones, ones / 2)


def test_a_place_tells_where_the_stream_is_and_will_begin():
    class Stream:
        def state_dict(self) -> dict[str, int]:
            return {"at": 7}

    place = Place(Stream())
    assert (place.begins, place.now()) == (True, Origin(0, None))
    place.restart(Origin(3, {"at": 2}))
    assert (place.begins, place.now()) == (True, Origin(3, {"at": 2}))
    place.begins, place.number = False, 3
    assert place.now() == Origin(3, None)
    place.under_way = True
    assert place.now() == Origin(3, {"at": 7})
    assert Place().now() is None


def test_a_log_keeps_what_was_not_trained_on_and_where_the_stream_stood_before_it():
    log, now = StreamLog(), Origin(2, {"at": 40})
    assert log.state_dict(now) == {"number": 2, "state": {"at": 40}, "kept": [], "done": 0}
    for at, positions in enumerate(([0, 2], [], [1, 3, 5], [4])):
        log.add(Origin(1, {"at": 10 * at}), torch.tensor(positions, dtype=torch.int64))
    replay = Replay({"kept": [torch.tensor([7])], "done": 2}, torch.tensor([], dtype=torch.int64))
    assert StreamLog().state_dict(now, replay) == {"number": 2, "state": {"at": 40}, "kept": [7], "done": 2}
    assert [len(part) for part in log.state_dict(now, replay)["kept"]] == [2, 0, 3, 1, 1]
    found = []
    for trained in (0, 1, 1, 1, 2, 1):
        log.trained(trained)
        state = log.state_dict(now)
        found.append((state["state"]["at"], [part.tolist() for part in state["kept"]], state["done"]))
    assert found == [
        (0, [[0, 2], [], [1, 3, 5], [4]], 0),
        (0, [[0, 2], [], [1, 3, 5], [4]], 1),
        (20, [[1, 3, 5], [4]], 0),
        (20, [[1, 3, 5], [4]], 1),
        (30, [[4]], 0),
        (40, [], 0),
    ]
    log.add(Origin(1, None), torch.tensor([3]))
    log.clear()
    assert log.state_dict(now)["kept"] == []


def test_a_replay_decides_as_before_until_other_candidates_come():
    def replay() -> Replay:
        kept = [torch.tensor([0, 2]), torch.tensor([], dtype=torch.int64), torch.tensor([1])]
        return Replay({"kept": kept, "done": 1}, torch.tensor([12, 31]))

    def next_of(one: Replay, *keys: int) -> list[int] | None:
        found = one.next(torch.tensor(keys))
        return None if found is None else found.tolist()

    one = replay()
    assert (bool(one), one.left) == (True, 2)
    assert next_of(one, 10, 11, 12) == [0, 2]
    one.done = 0
    assert next_of(one, 20, 21) == []
    assert next_of(one, 30, 31) == [1]
    assert (bool(one), one.left) == (False, 0)
    assert next_of(replay(), 10, 11, 13) is None
    assert next_of(replay(), 10, 11) is None


def test_draws_are_joined():
    whole = joined(draw_of(1, 2), draw_of(), draw_of(3))
    assert whole.indices.tolist() == [1, 2, 3]
    assert [part.dtype for part in joined()[:4]] == [torch.int64, torch.int64, torch.float64, torch.float64]
    assert all(len(part) == 0 for part in joined()[:4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": [torch.tensor([0.5])]}, "stream.kept.0"),
        ({"kept": [torch.tensor([-1])]}, "negative"),
        ({"done": -1}, "stream.done"),
        ({"done": 1}, "not one for each instance that was kept"),
        ({"number": None}, "stream.number"),
        ({"left": draw_of(5)._replace(within=double())._asdict()}, "stream.left.within"),
        ({"more": 1}, "stream.more"),
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, Any], message: str):
    kept: list[Tensor] = [torch.tensor([3])]
    state = {"number": 0, "state": None, "kept": kept, "done": 0, "left": draw_of(5)._asdict()}
    assert checked(state) is state
    with pytest.raises(ValueError, match=message):
        checked(state | change)


def test_the_state_of_a_sampler_over_positions_is_refused():
    refuse_positions({"stream": None})
    with pytest.raises(ValueError, match="of Uniform and of data with positions, but here is a stream"):
        refuse_positions({"strategy": "Uniform"})
