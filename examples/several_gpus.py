"""Several GPUs: every process takes its share of the same batches, and learns of all losses.

`strategy="ddp"` in the Trainer is all that changes, which is none of our lines: the loader needs no DistributedSampler.
`batch_size` is that of each process. Without GPUs two processes on the CPU do the same.

Run it by `python examples/several_gpus.py`. The changed lines end in `# adaptive sampling`.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback  # adaptive sampling


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
    """Train on an imbalanced set, validate on a balanced one."""
    seed_everything(0)  # the same in every process, and so the data are, too
    train_loader = AdaptiveDataLoader(rings(4000, [0.6, 0.35, 0.05]), batch_size=32)  # adaptive sampling
    val_loader = DataLoader(rings(1000, [1.0, 1.0, 1.0]), batch_size=250)
    plugin = AdaptiveSamplingCallback(logits_from="net")  # adaptive sampling
    gpus = torch.cuda.device_count()
    trainer = Trainer(
        accelerator="gpu" if gpus else "cpu",
        devices=gpus or 2,
        strategy="ddp",
        max_epochs=5,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(), train_loader, val_loader)
    if trainer.is_global_zero:
        accuracy = trainer.callback_metrics["val/accuracy"]
        print(f"trained; val accuracy {accuracy:.2f}, processes: {trainer.world_size}")


if __name__ == "__main__":
    main()
