"""Image classification: a network of timm on an imbalanced ImageFolder, with MixUp, label smoothing, averaged weights.

The pictures are made in a temporary folder: rings, discs and crosses. The bins are the classes that `ImageFolder`
keeps in `targets`. MixUp makes targets (B, C) of them in the `collate_fn`; the loss of each sample is that of the
module's own `criterion`, with its label smoothing.

Run it by `python examples/imagefolder_timm.py`, after `pip install ".[examples]"`. The changed lines end in
`# adaptive sampling`.
"""

import tempfile
from pathlib import Path

import timm
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

from lightning_as import AdaptiveDataModule, AdaptiveSamplingCallback  # adaptive sampling


class Shapes(LightningDataModule):
    """The folders `train` and `val`, with a sub-folder for each class."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
        self.augmented = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(32, padding=4), *to_tensor])
        self.plain = v2.Compose(to_tensor)

    def train_dataloader(self):
        mixup = v2.MixUp(alpha=0.2, num_classes=3)
        dataset = ImageFolder(self.folder / "train", self.augmented)
        return DataLoader(dataset, 32, shuffle=True, collate_fn=lambda batch: mixup(*default_collate(batch)))

    def val_dataloader(self):
        return DataLoader(ImageFolder(self.folder / "val", self.plain), 64)


class Classifier(LightningModule):
    """An ordinary classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("test_resnet", pretrained=False, num_classes=3)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def training_step(self, batch, batch_idx):
        images, targets = batch
        return self.criterion(self.model(images), targets)

    def validation_step(self, batch, batch_idx):
        images, targets = batch
        self.log("val/accuracy", (self.model(images).argmax(1) == targets).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def draw_shapes(folder: Path, counts: dict[str, int]) -> None:
    """Write pictures of 32 × 32 pixels, this many of each class."""
    across = torch.arange(32).expand(32, 32)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            x, y = torch.randint(10, 22, (2,))
            radius = ((across - x) ** 2 + (across.T - y) ** 2).sqrt()
            cross = ((across - x).abs() < 2) | ((across.T - y).abs() < 2)
            shape = {"cross": cross & (radius < 8), "disc": radius < 7, "ring": (radius < 8) & (radius > 5)}[name]
            image = shape * torch.rand(3, 1, 1) + 0.3 * torch.rand(3, 32, 32)
            to_pil_image(image.clamp(0, 1)).save(folder / name / f"{i}.png")


def main() -> None:
    """Train on an imbalanced set, validate on a balanced one."""
    seed_everything(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_shapes(folder / "train", {"cross": 300, "disc": 80, "ring": 20})
        draw_shapes(folder / "val", {"cross": 60, "disc": 60, "ring": 60})
        plugin = AdaptiveSamplingCallback(logits_from="model", per_sample_loss="criterion")  # adaptive sampling
        trainer = Trainer(
            max_epochs=5,
            callbacks=[plugin, EMAWeightAveraging(decay=0.9)],  # adaptive sampling
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        trainer.fit(Classifier(), datamodule=AdaptiveDataModule(Shapes(folder)))  # adaptive sampling
    print(f"trained; val accuracy {trainer.callback_metrics['val/accuracy']:.2f}")


if __name__ == "__main__":
    main()
