"""Multi-label classification: none, one or more of five labels for each sample.

Rows of several labels are no classes. Here the bins are the number of labels that a sample has; `bins=None` would go
by the losses alone, in one bin.

Run it by `python examples/multilabel.py`. The changed lines end in `# adaptive sampling`.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MultilabelF1Score

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback  # adaptive sampling


class Tagger(LightningModule):
    """An ordinary module with a logit for each label."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
        self.criterion = nn.BCEWithLogitsLoss()
        self.f1 = MultilabelF1Score(num_labels=5)

    def forward(self, features):
        return self.net(features)

    def training_step(self, batch, batch_idx):
        features, targets = batch
        return self.criterion(self(features), targets)

    def validation_step(self, batch, batch_idx):
        features, targets = batch
        self.f1(self(features).sigmoid(), targets.long())
        self.log("val/f1", self.f1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def songs(count: int, rule: torch.Tensor) -> TensorDataset:
    """Features (20,) and labels (5,), of which some are rare."""
    features = torch.randn(count, 20)
    rarity = torch.tensor([0.5, 0.5, 1.0, 1.5, 2.0])
    return TensorDataset(features, (features @ rule > rarity * rule.norm(dim=0)).float())


def main() -> None:
    """Train, and say how well the labels are found."""
    seed_everything(0)
    rule = torch.randn(20, 5)
    train = songs(8_000, rule)
    bins = train.tensors[1].sum(1).long()  # adaptive sampling
    train_loader = AdaptiveDataLoader(train, batch_size=128, bins=bins)  # adaptive sampling
    val_loader = DataLoader(songs(2_000, rule), batch_size=1000)
    plugin = AdaptiveSamplingCallback(logits_from="net", per_sample_loss="criterion")  # adaptive sampling
    trainer = Trainer(
        max_epochs=4,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Tagger(), train_loader, val_loader)
    print(f"trained; val F1 {trainer.callback_metrics['val/f1']:.2f}")


if __name__ == "__main__":
    main()
