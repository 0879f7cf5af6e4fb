import subprocess
import sys

import pytest
import torch

from lightning_as.core import compiled, compiled_trees, execution

CPU = torch.device("cpu")


def test_compiled_loops_are_for_the_cpu_alone_and_without_numba_there_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    assert execution.loops(CPU) is compiled
    assert execution.loops(torch.device("cuda")) is None

    def broken() -> None:
        raise OSError("no compiler")

    execution._compiled.cache_clear()
    monkeypatch.setattr(compiled, "check", broken)
    try:
        with pytest.warns(UserWarning, match=r"numba cannot compile on this machine \(OSError: no compiler\)"):
            assert execution.loops(CPU) is None
        assert execution.loops(CPU) is None  # and no second warning
    finally:
        execution._compiled.cache_clear()


def test_without_a_folder_for_the_cache_the_loops_are_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch):
    njit = compiled_trees.njit

    def without_a_folder(cache: bool = False, **options: str):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(compiled_trees, "njit", without_a_folder)
    assert compiled.kernel(lambda x: x + 1)(2) == 3


def test_numba_is_loaded_when_a_sampler_starts_and_not_before():
    script = (
        "import sys, torch, lightning_as; assert not {'numba', 'thesis'} & {*sys.modules};"
        "lightning_as.AdaptiveSampling().start(lightning_as.Bins([0, 1])); assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
