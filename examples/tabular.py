"""A table with one positive row in a hundred: one logit, `BCEWithLogitsLoss(pos_weight=…)`.

The bins are the two classes, which the last tensor of the `TensorDataset` has as floats 0 and 1. The loss of each
sample is that of the module's own `criterion`, with its `pos_weight`; the logits are (B, 1) and the targets (B,), as
in the module. Note that bins alone draw more of the positive rows, so that `pos_weight` counts on top of it.

Run it by `python examples/tabular.py`, after `pip install ".[examples]"`. The changed lines end in
`# adaptive sampling`.
"""

import pandas as pd
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAveragePrecision

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback  # adaptive sampling


class Scorer(LightningModule):
    """An ordinary module with one logit."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 1))
        self.criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(10.0))
        self.precision = BinaryAveragePrecision()

    def forward(self, features):
        return self.net(features).squeeze(1)

    def training_step(self, batch, batch_idx):
        features, targets = batch
        return self.criterion(self(features), targets)

    def validation_step(self, batch, batch_idx):
        features, targets = batch
        self.precision(self(features), targets.long())
        self.log("val/average_precision", self.precision)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def payments(count: int) -> pd.DataFrame:
    """A table of numbers, and whether it was fraud: 1 in 100."""
    table = pd.DataFrame(torch.randn(count, 8).numpy(), columns=[f"v{i}" for i in range(8)])
    risk = table.v0 * table.v1 + table.v2 + 0.3 * table.v3
    table["fraud"] = (risk > risk.quantile(0.99)).astype(float)
    return table


def as_dataset(table: pd.DataFrame) -> TensorDataset:
    """Features (8,) and a target."""
    features = torch.tensor(table.drop(columns="fraud").to_numpy(), dtype=torch.float32)
    return TensorDataset(features, torch.tensor(table.fraud.to_numpy(), dtype=torch.float32))


def main() -> None:
    """Train, and say how well the positive rows are found."""
    seed_everything(0)
    train_loader = AdaptiveDataLoader(as_dataset(payments(20_000)), batch_size=256)  # adaptive sampling
    val_loader = DataLoader(as_dataset(payments(5_000)), batch_size=1000)
    plugin = AdaptiveSamplingCallback(logits_from="net", per_sample_loss="criterion")  # adaptive sampling
    trainer = Trainer(
        max_epochs=5,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Scorer(8), train_loader, val_loader)
    print(f"trained; val average precision {trainer.callback_metrics['val/average_precision']:.2f}")
    print(f"{plugin.strategy.bin_probabilities[1]:.0%} of what is drawn is fraud")  # adaptive sampling


if __name__ == "__main__":
    main()
