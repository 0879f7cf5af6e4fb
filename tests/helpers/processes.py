"""Fits in processes of their own."""

import contextlib
import multiprocessing
import os
import signal
import socket
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_as import Strategy
from tests.helpers.recording import Recording


def within(seconds: float, function: Callable[[], object]) -> str:
    """The traceback, or "", of a function in a process of its own, which may start others: it ends them all."""

    def run(writer: Any) -> None:
        os.setsid()
        # An earlier fit in this process has looked for CUDA, which none of these use: forking does no harm then.
        torch.cuda._is_in_bad_fork = lambda: False
        warnings.simplefilter("ignore")
        try:
            function()
            writer.send("")
        except BaseException:
            writer.send(traceback.format_exc())

    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(writer,))
    process.start()
    try:
        if not reader.poll(seconds):
            pytest.fail(f"It hangs: {seconds} s have passed.")
        return reader.recv()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def in_two(function: Callable[[], object]) -> None:
    """Run a function in two processes that are to Lightning as if a cluster had started them; for :func:`within`.

    It is for strategies that know no other way but to start the script anew.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    reader, writer = multiprocessing.get_context("fork").Pipe(duplex=False)
    if (pid := os.fork()) == 0:
        os.environ["LOCAL_RANK"] = "1"
        try:
            function()
            writer.send("")
        except BaseException:
            writer.send(traceback.format_exc())
        os._exit(0)  # without what the process it is a copy of has to do at its end
    os.environ["LOCAL_RANK"] = "0"
    try:
        function()
    finally:
        failure = reader.recv() if reader.poll(60) else "The second process has not ended."
        os.waitpid(pid, os.WNOHANG)
    if failure:
        raise RuntimeError(failure)


class Report(Callback):
    """Writes down, in each process, what was trained on and learnt: to `path` with the suffix ``.0.pt`` and so on."""

    def __init__(self, path: Path, strategy: Strategy) -> None:
        self.path, self.strategy = path, strategy
        self.found: dict[str, list[Any]] = {"batches": [], "states": [], "gradients": []}

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gradients = [_whole(weight.grad).clone() for weight in pl_module.parameters() if weight.grad is not None]
        self.found["gradients"].append(gradients)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found["batches"].append(tuple(batch))
        record = self.strategy.record
        self.found["states"].append(self.strategy.state_dict() | {"record": record and record.state_dict()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        draws = [draw for draw, _, _ in self.strategy.told] if isinstance(self.strategy, Recording) else []
        drawn = {"drawn": [draw.indices for draw in draws], "probabilities": [draw.probabilities for draw in draws]}
        path = self.path.with_suffix(f".{trainer.global_rank}.pt")
        weights = {name: _whole(weight) for name, weight in pl_module.state_dict().items()}
        torch.save({**self.found, **drawn, "weights": weights}, path)


def _whole(tensor: Any) -> torch.Tensor:
    """A tensor of which each process may have a part."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
