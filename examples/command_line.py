r"""A command line of your own, by LightningCLI: the callback comes with a flag.

The module and the DataModule are yours; one line of the DataModule gives our loader, and its import makes the names of
the package known to the command line. Run it by

    python examples/command_line.py fit --trainer.callbacks+=AdaptiveSamplingCallback \
        --trainer.callbacks.logits_from=net

or without arguments, which does the same; or by `fit` alone, which trains on shuffled epochs. The changed lines end in
`# adaptive sampling`.
"""

import sys

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveDataLoader  # adaptive sampling

EXAMPLE = ["fit", "--trainer.callbacks+=AdaptiveSamplingCallback", "--trainer.callbacks.logits_from=net"]


class Points(LightningDataModule):
    """Points in the plane, of three classes, one of them rare."""

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        labels = torch.multinomial(torch.tensor([0.6, 0.35, 0.05]), 4000, True, generator=generator)
        centres = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.5, 2.0]])
        points = centres[labels] + torch.randn(4000, 2, generator=generator)
        self.train = TensorDataset(points[:3000], labels[:3000])
        self.val = TensorDataset(points[3000:], labels[3000:])

    def train_dataloader(self):
        return AdaptiveDataLoader(self.train, self.batch_size)  # adaptive sampling

    def val_dataloader(self):
        return DataLoader(self.val, 500)


class Classifier(LightningModule):
    """An ordinary classifier."""

    def __init__(self, width: int = 32, lr: float = 3e-3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 3))
        self.lr = lr

    def training_step(self, batch, batch_idx):
        points, labels = batch
        return nn.functional.cross_entropy(self.net(points), labels)

    def validation_step(self, batch, batch_idx):
        points, labels = batch
        self.log("val/accuracy", (self.net(points).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.lr)


def main() -> None:
    """Run what the command line says."""
    trainer = {"max_epochs": 5, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    cli = LightningCLI(
        Classifier, Points, save_config_callback=None, trainer_defaults=trainer, args=sys.argv[1:] or EXAMPLE
    )
    print(f"trained; val accuracy {cli.trainer.callback_metrics['val/accuracy']:.2f}")


if __name__ == "__main__":
    main()
