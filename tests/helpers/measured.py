"""A module that logs an accuracy, and a fit of it that writes down what it did, for one or several processes."""

from pathlib import Path
from typing import Any

from lightning_as import AdaptiveDataModule
from tests.helpers.processes import Report
from tests.helpers.tiny import BATCH, Tiny, TinyData, tiny_fit

EPOCHS = 4


class Measured(Tiny):
    """Logs an accuracy, as most modules do."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("val/accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())


def fit(
    make: Any, path: Path, num_workers=0, processes=1, callbacks=(), module=Measured, sharded=False, **options: Any
) -> None:
    """A fit with batches of one size in all: only the checkpoint can make it equal to one of another seed."""
    strategy = make()
    data = AdaptiveDataModule(TinyData(batch_size=BATCH // processes, num_workers=num_workers), sharded=sharded)
    devices: dict[str, Any] = (
        {"accelerator": "cpu", "devices": processes, "strategy": "ddp_fork"} if processes > 1 else {}
    )
    options = {"max_epochs": EPOCHS, "limit_val_batches": 1, **devices, **options}
    tiny_fit(path.parent, strategy, module, data, callbacks=(Report(path, strategy), *callbacks), **options)
