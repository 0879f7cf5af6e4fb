"""Regression: one bin, and the module's own Huber loss.

A target that is a number of its own for each row gives no classes: `bins=None`. Rows are drawn by their losses, of
which the least is 0. `weights="unbiased"` keeps the mean loss what is minimised: without them predictions lean to what
is drawn often.

Run it by `python examples/regression.py`. The changed lines end in `# adaptive sampling`.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback  # adaptive sampling


class Regressor(LightningModule):
    """An ordinary module with one output."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        self.loss = loss

    def training_step(self, batch, batch_idx):
        features, targets = batch
        return self.loss(self.net(features), targets)

    def validation_step(self, batch, batch_idx):
        features, targets = batch
        self.log("val/loss", self.loss(self.net(features), targets))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def prices(count: int) -> TensorDataset:
    """Six features and a price, (count, 1): mostly low, with few that are high and depend on other things."""
    features = torch.randn(count, 6)
    price = features[:, 0] + torch.exp(1.2 * features[:, 1]) * (features[:, 2] > 1)
    return TensorDataset(features, price.unsqueeze(1) + 0.05 * torch.randn(count, 1))


def main() -> None:
    """Train, and say what the loss is on other rows."""
    seed_everything(0)
    loss = nn.HuberLoss()
    train_loader = AdaptiveDataLoader(prices(10_000), batch_size=128, bins=None)  # adaptive sampling
    val_loader = DataLoader(prices(2_000), batch_size=1000)
    plugin = AdaptiveSamplingCallback(logits_from="net", per_sample_loss=loss, weights="unbiased")  # adaptive sampling
    trainer = Trainer(
        max_epochs=5,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Regressor(loss), train_loader, val_loader)
    print(f"trained; val loss {trainer.callback_metrics['val/loss']:.2f}")


if __name__ == "__main__":
    main()
