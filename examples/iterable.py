"""Data without positions: a stream of tar files, as webdataset reads them, of which some samples are skipped.

A stream brings its samples in its own order, so that nobody can draw them; but once the loss of a sample is known, by
its key, it can be skipped when it comes again. `KeepOrSkip` does so: in the first pass all are kept, then more of what
is neither known nor hopeless, and in the last part of the training all again. Reading is not saved, training steps are.

Run it by `python examples/iterable.py`. The changed lines end in `# adaptive sampling`.
"""

import io
import random
import struct
import tarfile
import tempfile
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightning_as import AdaptiveIterableLoader, AdaptiveSamplingCallback, KeepOrSkip  # adaptive sampling

SHARDS, ROWS, BATCH = 7, 300, 32


class Classifier(LightningModule):
    """An ordinary classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 3))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch["point"]), batch["label"])

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", (self.net(batch["point"]).argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def write(folder: Path, shard: int) -> None:
    """A tar file of points in the plane, whose classes are three rings about each other."""
    source = torch.Generator().manual_seed(shard)
    with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
        for row in range(ROWS):
            label = int(torch.randint(3, (), generator=source))
            angle, noise = torch.rand((), generator=source) * 6.28, torch.randn((), generator=source)
            x, y = (torch.stack([angle.cos(), angle.sin()]) * (label + 1 + 0.2 * noise)).tolist()
            sample = struct.pack("ffi", x, y, label)
            entry = tarfile.TarInfo(f"{shard:03d}-{row:06d}.bin")
            entry.size = len(sample)
            tar.addfile(entry, io.BytesIO(sample))


class Stream(IterableDataset):
    """The samples of tar files, which loader processes share among them, in another order of the files each time."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __iter__(self):
        worker = get_worker_info()
        files = self.files if worker is None else self.files[worker.id :: worker.num_workers]
        for path in random.sample(files, len(files)):
            with tarfile.open(path, "r|") as tar:  # which goes forward only
                for entry in tar:
                    x, y, label = struct.unpack("ffi", tar.extractfile(entry).read())
                    yield {"__key__": Path(entry.name).stem, "point": torch.tensor([x, y]), "label": label}


class Rings(LightningDataModule):
    """Six tar files to train on, one to validate on."""

    def setup(self, stage: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        for shard in range(SHARDS):
            write(Path(self.folder.name), shard)
        self.files = sorted(Path(self.folder.name).glob("*.tar"))

    def train_dataloader(self):
        stream, length = Stream(self.files[1:]), (SHARDS - 1) * ROWS // BATCH
        return AdaptiveIterableLoader(stream, BATCH, "__key__", length, num_workers=2)  # adaptive sampling

    def val_dataloader(self):
        return DataLoader(Stream(self.files[:1]), 100)


def main() -> None:
    """Train for as many steps as eight passes over all would have."""
    seed_everything(0)
    plugin = AdaptiveSamplingCallback(KeepOrSkip(), logits_from="net")  # adaptive sampling
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=8,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(), Rings())
    print(f"trained; val accuracy {trainer.callback_metrics['val/accuracy']:.2f}")


if __name__ == "__main__":
    main()
