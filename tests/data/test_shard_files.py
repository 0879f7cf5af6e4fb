from pathlib import Path

import pytest
import torch

from lightning_as import AdaptiveSampling, Bins, ClosenessSampling, Uniform
from lightning_as.data.shard_files import get, put, read_shard, tables_of, write_shard
from tests.helpers.tiny import differences

STATE = {
    "strategy_state": {"doubts": torch.arange(5.0), "persistence": {"seemed": torch.ones(5, dtype=torch.bool)}},
    "record": {"numbers": torch.rand(5, 7), "batches": 3},
    "pending": [{"indices": torch.tensor([4, 2])}],
    "name": "a",
}
TABLES = {"strategy_state.doubts", "strategy_state.persistence.seemed", "record.numbers"}


def test_a_state_is_read_as_it_was_written_and_written_once(tmp_path: Path):
    for rank in range(2):
        write_shard(tmp_path / "at", rank, STATE | {"rank": rank}, TABLES)
    write_shard(tmp_path / "at", 1, STATE | {"rank": 7}, TABLES)
    for rank in range(2):
        assert differences(read_shard(tmp_path / "at", rank), STATE | {"rank": rank}) == []
    small = read_shard(tmp_path / "at", 1, tables=False)
    assert small["record"] == {"batches": 3}
    assert (small["rank"], small["strategy_state"]) == (1, {"persistence": {}})


def test_what_is_missing_or_cut_short_is_named(tmp_path: Path):
    folder = tmp_path / "at"
    with pytest.raises(ValueError, match=r"at/0 is not there: copy the folder at from"):
        read_shard(folder, 0)
    write_shard(folder, 0, STATE, TABLES)
    (data,) = (folder / "0").glob("*.distcp")
    data.write_bytes(data.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"at/0 cannot be read \(.*copy it again"):
        read_shard(folder, 0)
    (folder / "0" / ".metadata").unlink()
    with pytest.raises(OSError, match="cannot be written to /proc"):
        write_shard(Path("/proc"), 0, STATE, TABLES)
    with pytest.raises(ValueError, match="at/0 is not whole"):
        read_shard(folder, 0)


def test_tables_are_what_grows_with_the_data():
    bins = Bins([0, 1, 0, 1, 1, 0, 2, 2])  # as many as other things are, perhaps
    found = {}
    for strategy in (ClosenessSampling(), AdaptiveSampling(score={0: "loss", 0.5: "gradient"}), Uniform()):
        strategy.keep_record(True)
        strategy.start(bins)
        found[type(strategy).__name__] = tables_of(strategy)
        assert strategy.bins is bins
        state = {"strategy_state": strategy.state_dict()}
        tables = {path for path in tables_of(strategy) if get(state, path) is not None}
        assert all(len(get(state, path)) == 8 for path in tables)
    record = {"record.numbers", "record.counts"}
    assert found["Uniform"] == record
    own = {"inside.leaves", "schedule.last"}
    assert found["AdaptiveSampling"] == record | {f"strategy_state.{path}" for path in own}
    assert found["ClosenessSampling"] == record | {"strategy_state.doubts"}


def test_parts_are_found_and_put_by_their_paths():
    state = {"one": {"two": 3}}
    put(state, "one.four", 4)
    put(state, "five.six", 6)
    assert state == {"one": {"two": 3, "four": 4}, "five": {"six": 6}}
    assert (get(state, "one.four"), get(state, "one.two.three"), get(state, "seven")) == (4, None, None)
