import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_as.data.fingerprint import fingerprint
from tests.helpers.tiny import normal

N = 3000


class Held(Dataset[Any]):
    """Keeps what it is given, and must not be asked for a sample."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return N


def images(seed: int) -> torch.Tensor:
    return normal(N, 3, 8, 8, seed=seed)


MAKE: dict[str, Callable[[int], Any]] = {
    "tensors": lambda seed: TensorDataset(images(seed), torch.arange(N)),
    "no copy": lambda seed: TensorDataset(images(seed).transpose(1, 3)),
    "bfloat16": lambda seed: Held(x=normal(N, seed=seed).bfloat16()),
    "arrays": lambda seed: Held(x=images(seed).numpy()),
    "columns": lambda seed: Held(columns={"x": images(seed), "y": [0] * N}),
    "numbers": lambda seed: Held(ids=[(at + seed) % N for at in range(N)]),
    "files": lambda seed: Held(files=[f"/data/fold{seed}/{at}.png" for at in range(N)]),
    "rows": lambda seed: Held(rows=[(f"{at + seed}.png", 3) for at in range(N)]),
    "words": lambda seed: Held(x=np.array([f"{at + seed}" for at in range(N)], dtype=object)),
    "list": lambda seed: [(row, 3) for row in normal(50, 4, seed=seed)],
    "subset": lambda seed: Subset(Held(), range(seed, N, 2)),
    "permuted": lambda seed: Subset(Held(), random.Random(seed).sample(range(N), N)),
    "concatenated": lambda seed: ConcatDataset([Held(), Held(x=images(seed))]),
    "a number of a fold": lambda seed: Held(fold=seed),
    "a file that is opened late": lambda seed: Held(x_path=f"/data/fold{seed}.h5"),
    "a path of one": lambda seed: Subset(Held(file=Path(f"/data/{seed}.h5")), range(N)),
    "hugging face": lambda seed: Held(_fingerprint=f"{seed}"),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())
def test_it_is_equal_for_equal_content_and_other_for_other(make: Callable[[int], Any]):
    assert fingerprint(make(0)) == fingerprint(make(0)) == fingerprint(deepcopy(make(0))) > 0
    assert fingerprint(make(0)) != fingerprint(make(1))


def test_tables_count():
    pandas = pytest.importorskip("pandas")
    one, same, other = (Held(table=pandas.DataFrame({"x": range(N), "y": ["a"] * (N - 1) + [end]})) for end in "aab")
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


def test_what_may_change_without_being_other_data_does_not_count(tmp_path: Path):
    dataset = Held(x=images(0), files=[tmp_path / "cat" / f"{at}.png" for at in range(N)], filled=[None] * N)
    before = fingerprint(dataset)
    dataset.__dict__ |= {"epoch": 3, "root": "/elsewhere", "transform": torch.nn.Sequential(torch.nn.Linear(2, 2))}
    dataset.__dict__ |= {"cache": [1.0] * N, "_cached": normal(N), "generator": torch.Generator(), "own": dataset}
    dataset.filled[3] = normal(4)
    dataset.files = [Path("/elsewhere") / file.parent.name / file.name for file in dataset.files]
    assert fingerprint(dataset) == before
    assert fingerprint(Held(path="/here/a.h5")) == fingerprint(Held(path="/there/a.h5"))
    assert fingerprint(Held(looked_up={at: at for at in range(N)})) == fingerprint(Held(looked_up={}))
