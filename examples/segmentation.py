"""Segmentation: a class for each pixel, and 255 where nobody knows, `ignore_index=255`.

The loss of each image is the mean over its labelled pixels, by the module's own `criterion`. Labels of pixels are no
bins: here the data set also keeps what kind of scene each image is, and that column is named.

Run it by `python examples/segmentation.py`. The changed lines end in `# adaptive sampling`.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback  # adaptive sampling


class Scenes(Dataset):
    """Images (3, 32, 32) and masks (32, 32): ground 0, a square 1, in dim scenes a small 2, outlines 255."""

    def __init__(self, count: int, dim_share: float) -> None:
        self.scenes = ["dim" if dim else "bright" for dim in torch.rand(count) < dim_share]
        self.masks = torch.zeros(count, 32, 32, dtype=torch.long)
        for mask, scene in zip(self.masks, self.scenes, strict=True):
            size = 5 if scene == "dim" else 12
            x, y = torch.randint(1, 31 - size, (2,))
            mask[y - 1 : y + size + 1, x - 1 : x + size + 1] = 255
            mask[y : y + size, x : x + size] = 2 if scene == "dim" else 1
        light = torch.tensor([0.6 if scene == "dim" else 1.0 for scene in self.scenes])
        colours = torch.tensor([[0.2, 0.4, 0.2], [0.8, 0.2, 0.2], [0.6, 0.3, 0.7]])
        images = colours[self.masks.where(self.masks != 255, 0)].permute(0, 3, 1, 2)
        self.images = images * light.view(-1, 1, 1, 1) + 0.1 * torch.randn(count, 3, 32, 32)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.masks[index]


class Segmenter(LightningModule):
    """An ordinary module with logits (B, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 3, 1)
        )
        self.criterion = nn.CrossEntropyLoss(ignore_index=255)

    def training_step(self, batch, batch_idx):
        images, masks = batch
        return self.criterion(self.net(images), masks)

    def validation_step(self, batch, batch_idx):
        images, masks = batch
        small = masks == 2
        self.log("val/recall_of_small", (self.net(images).argmax(1) == masks)[small].float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def main() -> None:
    """Train on few dim scenes, and say how many pixels of their small squares are found."""
    seed_everything(0)
    train_loader = AdaptiveDataLoader(Scenes(400, 0.1), batch_size=16, bins="scenes")  # adaptive sampling
    val_loader = DataLoader(Scenes(100, 0.5), batch_size=50)
    plugin = AdaptiveSamplingCallback(logits_from="net", per_sample_loss="criterion")  # adaptive sampling
    trainer = Trainer(
        max_epochs=6,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Segmenter(), train_loader, val_loader)
    print(f"trained; recall of small squares {trainer.callback_metrics['val/recall_of_small']:.2f}")
    print(f"{plugin.strategy.bin_probabilities[1]:.0%} of what is drawn are dim scenes")  # adaptive sampling


if __name__ == "__main__":
    main()
