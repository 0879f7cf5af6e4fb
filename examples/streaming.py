"""Data in chunks, as on object storage: written by litdata, drawn from a few chunks at a time, in two processes.

`litdata.optimize` writes chunks once; a `StreamingDataset` reads them, from a folder or a bucket ("s3://…"), through
its own cache. In an AdaptiveDataLoader its instances have positions to draw: each process has eight chunks open at a
time, of its own, and reads each once a pass. Bins are classes here, of labels that are kept beside the data.

Run it by `python examples/streaming.py`. The changed lines end in `# adaptive sampling`.
"""

import tempfile
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from litdata import StreamingDataset, optimize
from torch import nn
from torch.utils.data import DataLoader

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback  # adaptive sampling

FOLDER = Path(tempfile.gettempdir()) / "lightning_as_rings"
PARTS, ROWS = 20, 400


class Classifier(LightningModule):
    """An ordinary classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 3))

    def training_step(self, batch, batch_idx):
        points, labels = batch
        return nn.functional.cross_entropy(self.net(points), labels)

    def validation_step(self, batch, batch_idx):
        points, labels = batch
        self.log("val/accuracy", (self.net(points).argmax(1) == labels).float().mean(), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def rings(part: int):
    """A part of the data: points in the plane, the classes are three rings about each other."""
    source = torch.Generator().manual_seed(part)
    shares = torch.tensor([0.6, 0.35, 0.05] if part < PARTS else [1.0, 1.0, 1.0])
    for label in torch.multinomial(shares, ROWS, replacement=True, generator=source):
        angle, noise = torch.rand((), generator=source) * 6.28, torch.randn((), generator=source)
        yield torch.stack([angle.cos(), angle.sin()]) * (label + 1 + 0.2 * noise), int(label)


class Rings(LightningDataModule):
    """Chunks of 100 points to train on, and some points in memory to validate on."""

    def prepare_data(self) -> None:  # which one process does, and the others wait for
        optimize(rings, list(range(PARTS)), str(FOLDER / "train"), chunk_size=100, num_workers=1, mode="overwrite")
        torch.save([label for part in range(PARTS) for _, label in rings(part)], FOLDER / "labels.pt")

    def train_dataloader(self):
        stream, bins = StreamingDataset(str(FOLDER / "train")), torch.load(FOLDER / "labels.pt")
        return AdaptiveDataLoader(stream, batch_size=32, bins=bins, seed=0)  # adaptive sampling

    def val_dataloader(self):
        return DataLoader(list(rings(PARTS)), batch_size=100)


def main() -> None:
    """Train on an imbalanced set, validate on a balanced one."""
    seed_everything(0)
    plugin = AdaptiveSamplingCallback(logits_from="net")  # adaptive sampling
    gpus = torch.cuda.device_count()
    trainer = Trainer(
        accelerator="gpu" if gpus else "cpu",
        devices=gpus or 2,
        strategy="ddp",
        max_epochs=4,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(), Rings())
    if trainer.is_global_zero:
        accuracy = trainer.callback_metrics["val/accuracy"]
        print(f"trained; val accuracy {accuracy:.2f}, processes: {trainer.world_size}")


if __name__ == "__main__":
    main()
