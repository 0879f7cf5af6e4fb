from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from lightning_as import compiled
from lightning_as.gradient_bound import gradient_bound
from lightning_as.sum_tree import SumTree


def run(code: str, **environment: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | environment)


def test_nothing_is_compiled_before_it_is_needed():
    run("import sys, lightning_as; sys.exit('numba' in sys.modules or 'lightning_as.kernels' in sys.modules)")


@pytest.mark.parametrize("available", [False, True])
def test_the_switch_is_heard_where_a_tree_is_made(monkeypatch: pytest.MonkeyPatch, available: bool):
    monkeypatch.setattr(compiled, "available", available)
    assert SumTree([3]).compiled == available
    assert compiled.in_use(torch.device("cpu")) == available
    assert not compiled.in_use(torch.device("cuda"))


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
def test_without_a_folder_for_the_cache_everything_is_compiled_anew():
    # numba then looks at one variable only for a folder, and it is not set
    run(
        "import torch\n"
        "from lightning_as.sum_tree import SumTree\n"
        "tree = SumTree([3])\n"
        "assert tree.compiled\n"
        "tree.set(tree.places()[1:2], torch.ones(1, 1, dtype=torch.float64))\n"
        "assert tree.totals().item() == 1\n",
        NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator",
        NUMBA_CACHE_DIR="",
    )


@pytest.mark.usefixtures("implementation")
def test_a_class_out_of_range_is_refused_as_torch_refuses_it():
    for target in (-100, -1, 3):
        with pytest.raises(RuntimeError):
            gradient_bound(torch.zeros(1, 3), torch.tensor([target]))
