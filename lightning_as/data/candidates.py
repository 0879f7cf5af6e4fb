"""What a stream brings: samples with their keys, on their way from a loader process to where some of them are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import get_worker_info

from lightning_as.core.key_table import hash_of

KeyOf = str | int | Callable[[Any], Any]
"""Where the key of a sample is: under a name in a mapping, at a place in a sequence, or what a function gives."""


class Candidates(NamedTuple):
    """Samples that came together."""

    keys: Tensor
    """The hashes of their keys, (C,) int64."""
    names: list[Any]
    """The keys."""
    samples: list[Any] | Packed
    """The samples, (C,)."""

    def take(self, positions: Tensor) -> list[Any]:
        """The samples at some positions, (b,)."""
        at = positions.tolist()
        return self.samples.unpack(at) if isinstance(self.samples, Packed) else [self.samples[i] for i in at]


class Keyed:
    """Takes the place of a `collate_fn`: finds the keys of samples, and leaves it to others to make a batch.

    Args:
        key: Where the key of a sample is.
    """

    def __init__(self, key: KeyOf) -> None:
        self.key = key

    def __call__(self, samples: list[Any]) -> Candidates:
        """The candidates that some samples are; packed in a loader process."""
        names = [self._name(sample) for sample in samples]
        keys = torch.tensor([hash_of(name) for name in names], dtype=torch.int64, device="cpu")
        return Candidates(keys, names, samples if get_worker_info() is None else pack(samples))

    def _name(self, sample: Any) -> Any:
        if callable(self.key):
            return self.key(sample)
        try:
            return sample[self.key]
        except (LookupError, TypeError) as error:
            has = f"the keys {list(sample)}" if isinstance(sample, Mapping) else f"type {type(sample).__name__}"
            raise ValueError(
                f"`key={self.key!r}` is not in a sample, which has {has}: name what tells the instances apart, such as "
                "`key='__key__'` of webdataset, or give a function of the sample, `key=lambda sample: …`."
            ) from error


class Packed(NamedTuple):
    """Values of samples, put together as far as they are alike: a tensor of all goes faster than one of each."""

    kind: Literal["stacked", "mapping", "list", "tuple", "each"]
    parts: Any

    def unpack(self, at: Sequence[int]) -> list[Any]:
        """The values of the samples at some positions."""
        if self.kind in ("stacked", "each"):
            return [self.parts[i] for i in at]
        if self.kind == "mapping":
            columns = [part.unpack(at) for part in self.parts.values()]
            return [dict(zip(self.parts, values, strict=True)) for values in zip(*columns, strict=True)]
        rows = zip(*(part.unpack(at) for part in self.parts), strict=True)
        return list(rows) if self.kind == "tuple" else [list(row) for row in rows]


def pack(values: list[Any]) -> Packed:
    """Values of samples, of whatever kind."""
    first = values[0]
    alike = all(type(value) is type(first) for value in values)
    if type(first) is Tensor and alike and all(_same(first, value) for value in values):
        return Packed("stacked", torch.stack(values))
    if type(first) is dict and alike and first and all(list(value) == list(first) for value in values):
        return Packed("mapping", {name: pack([value[name] for value in values]) for name in first})
    if type(first) in (list, tuple) and alike and first and all(len(value) == len(first) for value in values):
        kind = "list" if type(first) is list else "tuple"
        return Packed(kind, [pack(list(column)) for column in zip(*values, strict=True)])
    return Packed("each", values)


def _same(one: Tensor, other: Tensor) -> bool:
    plain = other.layout is torch.strided and not other.requires_grad and other.device.type == "cpu"
    return plain and one.shape == other.shape and one.dtype == other.dtype


def warn_of_repeated(repeated: Tensor, names: list[Any]) -> bool:
    """Warn if a key has come before in this pass, (C,) bool, with its name; whether there was one."""
    if not bool(repeated.any()):
        return False
    rank_zero_warn(
        f"The key {names[int(repeated.int().argmax())]!r} has come again before the stream has ended. If several "
        "instances have it, they count as one: give `key` what tells them apart, such as `lambda sample: "
        "sample['__url__'] + sample['__key__']`. If the stream repeats its instances, all is well."
    )
    return True
