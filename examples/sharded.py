"""What is known of the data cut among processes, for data of so many samples that one cannot keep it all.

With `sharded=True` each process draws from a part of its own, and keeps what it has learnt of that alone. A checkpoint
has it in a folder of its own, `adaptive_sampling/…` in the Trainer's `default_root_dir`, from where any number of
processes goes on. Without GPUs two processes on the CPU do the same.

Run it by `python examples/sharded.py`. The changed lines end in `# adaptive sampling`.
"""

import tempfile
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback  # adaptive sampling

FOLDER = Path(tempfile.gettempdir()) / "lightning_as_sharded"


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


def rings(count: int, shares: list[float]) -> TensorDataset:
    """Points in the plane: the classes are three rings about each other."""
    labels = torch.multinomial(torch.tensor(shares), count, replacement=True)
    angles, radius = torch.rand(count) * 6.28, labels + 1 + 0.2 * torch.randn(count)
    return TensorDataset(torch.stack([angles.cos(), angles.sin()], 1) * radius.unsqueeze(1), labels)


def main() -> None:
    """Train on an imbalanced set, validate on a balanced one; go on from a checkpoint."""
    seed_everything(0)  # the same in every process, and so the data are, too
    data, val_loader = rings(4000, [0.6, 0.35, 0.05]), DataLoader(rings(1000, [1.0, 1.0, 1.0]), batch_size=250)
    gpus, checkpoint = torch.cuda.device_count(), None
    for epochs in (3, 5):
        trainer = Trainer(
            accelerator="gpu" if gpus else "cpu",
            devices=gpus or 2,
            strategy="ddp",
            max_epochs=epochs,
            callbacks=[AdaptiveSamplingCallback(logits_from="net"), ModelCheckpoint()],  # adaptive sampling
            default_root_dir=FOLDER,
            logger=False,
            enable_progress_bar=False,
        )
        train_loader = AdaptiveDataLoader(data, batch_size=32, sharded=True)  # adaptive sampling
        trainer.fit(Classifier(), train_loader, val_loader, ckpt_path=checkpoint)
        checkpoint = trainer.checkpoint_callback.best_model_path
    if trainer.is_global_zero:
        accuracy = trainer.callback_metrics["val/accuracy"]
        print(f"trained; val accuracy {accuracy:.2f}, processes: {trainer.world_size}")


if __name__ == "__main__":
    main()
