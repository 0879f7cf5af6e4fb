"""Contrastive learning of two views: a loss that couples the samples of a batch.

NT-Xent has a term for each sample, its cross-entropy among all samples of the batch, which is what it is sampled by:
`training_step` returns it beside the loss. It depends on the others in the batch, so that no weights can make it
unbiased. There are no classes: one bin.

Run it by `python examples/contrastive.py`. The changed lines end in `# adaptive sampling`.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, Dataset

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback  # adaptive sampling


class TwoViews(Dataset):
    """Two noisy views of each of many signals."""

    def __init__(self, count: int) -> None:
        phases = torch.rand(count, 1) * 6.28
        self.signals = torch.sin(torch.linspace(0, 12, 64) * (1 + torch.rand(count, 1)) + phases)

    def __len__(self):
        return len(self.signals)

    def __getitem__(self, index):
        signal = self.signals[index]
        return signal + 0.2 * torch.randn(64), signal + 0.2 * torch.randn(64)


class Contrastive(LightningModule):
    """An ordinary module that learns by NT-Xent."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))

    def training_step(self, batch, batch_idx):
        one, other = (normalize(self.encoder(view), dim=1) for view in batch)
        similarities, own = one @ other.T / 0.1, torch.arange(len(one), device=self.device)
        losses = (
            cross_entropy(similarities, own, reduction="none") + cross_entropy(similarities.T, own, reduction="none")
        ) / 2
        return {"loss": losses.mean(), "losses": losses}  # adaptive sampling

    def validation_step(self, batch, batch_idx):
        one, other = (normalize(self.encoder(view), dim=1) for view in batch)
        own = torch.arange(len(one), device=self.device)
        self.log("val/found", ((one @ other.T).argmax(1) == own).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main() -> None:
    """Train, and say how often the other view is the nearest one."""
    seed_everything(0)
    train_loader = AdaptiveDataLoader(TwoViews(4000), batch_size=128, bins=None)  # adaptive sampling
    val_loader = DataLoader(TwoViews(500), batch_size=500)
    plugin = AdaptiveSamplingCallback()  # adaptive sampling
    trainer = Trainer(
        max_epochs=4,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Contrastive(), train_loader, val_loader)
    print(f"trained; other view found {trainer.callback_metrics['val/found']:.2f}")


if __name__ == "__main__":
    main()
