from pathlib import Path

import pytest
import torch

from benchmarks.budgets.data import Data
from benchmarks.budgets.tasks import TASKS, made, select
from lightning_as import AdaptiveBatchSampler, Bins


def test_tasks_are_selected_by_patterns():
    assert [task.name for task in select(["mnist-tail*", "adult"])] == ["adult", "mnist-tail10", "mnist-tail100"]
    assert select(["*"]) == list(TASKS.values())
    with pytest.raises(ValueError, match="nothing` fits none of mnist"):
        select(["mnist", "nothing"])


def test_wrong_labels_are_not_drawn_before_the_others(monkeypatch: pytest.MonkeyPatch):
    """As they would be if the sampler's generator were to make the same permutation as theirs."""
    clean = torch.arange(2).repeat(5000)
    data = Data(torch.zeros(10000, 1), clean, torch.zeros(1, 1), clean[:1])
    monkeypatch.setattr("benchmarks.budgets.tasks._loaded", lambda *arguments: data)
    task = TASKS["mnist-wrong40"]._replace(name="tested")
    wrong = made(task, 3, Path(), Path()).labels != clean
    assert int(wrong.sum()) == 4000
    first = torch.tensor(next(iter(AdaptiveBatchSampler(Bins.single(10000), 1000, seed=3))))
    assert 300 < int(wrong[first].sum()) < 500  # more than six standard deviations to either side
