import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from lightning_as import (
    AdaptiveDataLoader,
    Bins,
    InChunks,
)
from lightning_as.core.chunk_order import Chunks
from lightning_as.data import chunks
from lightning_as.data.chunks import ChunkedStream, in_order
from lightning_as.data.fingerprint import fingerprint

N, SIZE = 100, 16


class Noting(Dataset[Any]):
    """Sample i is i; notes the order in which it is read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> int:
        self.read.append(index)
        return index


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred instances in seven chunks of litdata's."""
    streaming = pytest.importorskip("litdata.streaming")
    path = tmp_path_factory.mktemp("chunks")
    cache = streaming.Cache(input_dir=str(path), chunk_size=SIZE)
    for index in range(N):
        cache[index] = {"x": torch.full((3,), float(index)), "y": index % 5}
    cache.done()
    cache.merge()
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def stream(folder: Any, **options: Any) -> Any:
    return pytest.importorskip("litdata").StreamingDataset(str(folder), **options)


def test_neighbours_are_read_in_the_order_in_which_they_lie():
    source = Noting()
    data = InChunks(source, 30)
    assert data.chunk_sizes == [30, 30, 30, 10]
    assert len(data) == N
    assert data.__getitems__([7, 99, 3, 7]) == [7, 99, 3, 7]
    assert source.read == [3, 7, 7, 99]
    assert data[5] == 5
    assert in_order([], lambda indices: indices) == []


def test_several_are_asked_for_at_once_where_that_can_be():
    class AtOnce(Noting):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [10 * index for index in indices]

    assert InChunks(AtOnce(), 9).__getitems__([4, 2]) == [40, 20]


def test_bad_chunks_are_refused():
    with pytest.raises(ValueError, match="is empty"):
        InChunks(TensorDataset(torch.empty(0)), 3)
    for size in (0, 1.5):
        with pytest.raises((TypeError, ValueError), match="`chunk_size`"):
            InChunks(Noting(), size)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="The chunks are of 5 instances, but the bins of 3"):
        Bins.single(3).in_chunks(Chunks.of([5], 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_a_stream_has_every_instance_once(folder: Path, workers: int):
    loader = AdaptiveDataLoader(stream(folder), 10, "chunk", seed=0, open_chunks=2, num_workers=workers)
    for _ in range(2):
        batches = list(loader)
        drawn = torch.cat([batch["x"][:, 0] for batch in batches]).long()
        assert drawn.sort().values.tolist() == list(range(N))
        assert all(torch.equal(batch["x"][:, 0].long() % 5, batch["y"]) for batch in batches)
        assert drawn.tolist() != list(range(N))
        for chunk in range(7):  # is read in one stretch, while another two at most begin and end
            at = (drawn // SIZE == chunk).nonzero().flatten()
            assert int(at[-1] - at[0]) < 4 * SIZE + 10


@pytest.mark.parametrize("hidden", [False, True])
def test_a_run_of_neighbours_is_decoded_once_an_epoch(folder: Path, hidden: bool, monkeypatch: pytest.MonkeyPatch):
    """Also the one that the draws of a chunk begin and end in; `hidden` is a litdata that does not keep it."""
    monkeypatch.setattr(chunks, "_WINDOW", 5)
    runs: list[tuple[int, int]] = []
    decode = ChunkedStream._decode

    def noted(self: ChunkedStream, reader: Any, chunk: int, run: int) -> list[Any]:
        runs.append((chunk, run))
        if hidden:
            reader.cache._reader._item_loader.set_batch_decode(1)
        return decode(self, reader, chunk, run)

    monkeypatch.setattr(ChunkedStream, "_decode", noted)
    loader = AdaptiveDataLoader(stream(folder), 10, "chunk", seed=0, open_chunks=2)
    samples = torch.cat([batch["x"][:, 0] for batch in loader]).long()
    assert samples.sort().values.tolist() == list(range(N))
    assert len(set(runs)) == len(runs) == sum(-(-size // 5) for size in ChunkedStream(stream(folder)).chunk_sizes)


def test_a_part_of_a_stream_that_begins_amid_a_run_has_its_own_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of small integers, which are the same objects wherever they come from."""
    litdata = pytest.importorskip("litdata")
    cache = litdata.streaming.Cache(input_dir=str(tmp_path), chunk_size=100)
    for index in range(200):
        cache[index] = index // 25
    cache.done()
    cache.merge()
    monkeypatch.setattr(chunks, "_WINDOW", 16)
    monkeypatch.setattr(chunks, "_SMALL", 10_000)
    _, part = litdata.train_test_split(stream(tmp_path), [0.37, 0.63])
    ours = ChunkedStream(part)
    assert ours.window == 16
    assert ours.__getitems__(list(range(len(ours)))) == [int(value) for value in part]


def test_a_loader_of_litdata_is_a_model_for_ours(folder: Path):
    theirs = pytest.importorskip("litdata").StreamingDataLoader(stream(folder, shuffle=True), batch_size=20)
    loader = AdaptiveDataLoader.like(theirs, bins="chunk")
    assert sorted(torch.cat([batch["x"][:, 0] for batch in loader]).tolist()) == list(range(N))
    assert loader.sampler.bins.chunks.open == 8  # pyright: ignore[reportAttributeAccessIssue]


def test_of_a_stream_few_chunks_are_open(folder: Path):
    data = ChunkedStream(stream(folder))
    data.open_chunks = 2
    for index in range(0, N, 3):
        assert int(data[index]["x"][0]) == index
        assert len(data._readers_cache) <= 6
    assert data._readers_cache.keys() == {1, 2, 3, 4, 5, 6}


def test_a_part_of_a_stream_is_numbered_from_0(folder: Path):
    data = ChunkedStream(stream(folder, subsample=0.5))
    assert sum(data.chunk_sizes) == len(data) == N // 2
    values = [int(data[index]["x"][0]) for index in range(len(data))]
    assert len(set(values)) == N // 2


def test_a_chunk_far_away_is_fetched_once_an_epoch_and_as_a_whole(folder: Path, tmp_path: Path):
    far = stream(f"local:{folder}", cache_dir=str(tmp_path))
    loader = AdaptiveDataLoader(far, 10, None, seed=0, open_chunks=2)
    drawn = torch.cat([batch["x"][:, 0] for batch in loader]).long()
    assert drawn.sort().values.tolist() == list(range(N))
    fetched = {file.name: file.stat().st_size for file in tmp_path.rglob("*.bin")}
    assert fetched == {file.name: file.stat().st_size for file in folder.glob("*.bin")}


@pytest.mark.filterwarnings("ignore:::litdata")
def test_a_cache_that_may_be_too_small_is_told_before(folder: Path, tmp_path: Path):
    largest = max(file.stat().st_size for file in folder.glob("*.bin"))
    far = stream(f"local:{folder}", cache_dir=str(tmp_path), max_cache_size=6 * largest)
    with pytest.warns(
        UserWarning, match="has room for 6 chunks, but 1 that .* in 2 loader process.* may take 14, and so"
    ):
        AdaptiveDataLoader(far, 10, None, seed=0, open_chunks=1, num_workers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdaptiveDataLoader(stream(folder, max_cache_size=largest), 10, None, seed=0)  # which is here
        far = stream(f"local:{folder}", cache_dir=str(tmp_path), max_cache_size=10 * largest)
        AdaptiveDataLoader(far, 10, None, seed=0)  # all of it fits


def test_the_chunks_that_come_next_are_fetched_before(folder: Path, tmp_path: Path):
    far = stream(f"local:{folder}", cache_dir=str(tmp_path))
    batches = iter(AdaptiveDataLoader(far, 10, None, seed=0, open_chunks=1))
    next(batches)
    end = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.bin"))) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    there = {file.name for file in tmp_path.rglob("*.bin")}
    assert len(there) == 3
    drawn = torch.cat([next(batches)["x"][:, 0] for _ in range(3)]).long() // SIZE
    assert {f"chunk-0-{chunk}.bin" for chunk in drawn.tolist()} <= there


def test_what_a_class_of_the_users_does_to_a_sample_is_done(folder: Path):
    streaming = pytest.importorskip("litdata").StreamingDataset

    class Wrapped(streaming):
        def __getitem__(self, index: Any) -> Any:
            return {"sample": super().__getitem__(index)["y"]}

    assert ChunkedStream(Wrapped(str(folder)))[7] == {"sample": 2}


def test_a_collate_may_change_its_samples(folder: Path):
    def pop(samples: list[Any]) -> list[Any]:
        return [sample.pop("y") for sample in samples]

    loader = AdaptiveDataLoader(stream(folder), 10, None, seed=0, collate_fn=pop)
    for _ in range(2):
        assert sorted(label for batch in loader for label in batch) == sorted(index % 5 for index in range(N))


def test_the_same_chunks_are_the_same_data_wherever_they_are(folder: Path, tmp_path: Path):
    here, seed = ChunkedStream(stream(folder)), ChunkedStream(stream(folder, seed=7))
    far = ChunkedStream(stream(f"local:{folder}", cache_dir=str(tmp_path)))
    part = ChunkedStream(stream(folder, subsample=0.5))
    assert fingerprint(here) == fingerprint(seed) == fingerprint(far) != fingerprint(part)


def test_a_position_that_is_not_there_is_refused(folder: Path):
    for index in (-1, N):
        with pytest.raises(IndexError, match="Positions are from 0 to 99"):
            ChunkedStream(stream(folder))[index]


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_chunk_is_named_before_it_is_read(copied: Path, damage: str):
    data = ChunkedStream(stream(copied))
    file = copied / "chunk-0-3.bin"
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[:-5])
    found = "is not there" if damage == "gone" else f"has {len(content) - 5} bytes"
    with pytest.raises(ValueError, match=rf"chunk-0-3.bin of .* {found}, but its index says"):
        ChunkedStream(stream(copied))
    assert int(data[0]["x"][0]) == 0
    with pytest.raises(RuntimeError, match=r"Chunk 3 of .* cannot be read .*Was it changed since the training began"):
        data[50]


def test_what_a_transform_raises_names_the_chunk(folder: Path):
    def broken(sample: Any) -> Any:
        raise KeyError("z")

    with pytest.raises(RuntimeError, match=r"Chunk 1 of .* cannot be read \(KeyError: 'z'\)"):
        ChunkedStream(stream(folder, transform=broken))[20]
