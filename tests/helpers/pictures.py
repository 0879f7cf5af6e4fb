"""Small pictures in classes with names, some of them with a wrong label, and a module for them."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tests.helpers.statistics import seeded
from tests.helpers.tiny import Tiny

NAMES = ["<i>zero</i>", "one & only", r"$\two$", "three"]
SIZE, BATCH = 120, 10


class Pictures(Dataset[Any]):
    """Noise of `side` × `side` pixels in three colours, with a bright square in the quarter that is its class."""

    classes = NAMES

    def __init__(self, side: int = 10, size: int = SIZE) -> None:
        self.pixels = torch.randint(0, 100, (size, 3, side, side), generator=seeded(), dtype=torch.uint8)
        self.targets = torch.arange(size) % 4
        half = side // 2
        for pixels, label in zip(self.pixels, self.targets.tolist(), strict=True):
            row, column = divmod(label, 2)
            pixels[:, row * half :, column * half :][:, :half, :half] += 100
        self.targets[::10] = (self.targets[::10] + 1) % 4

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pixels[index], self.targets[index]


class PictureData(LightningDataModule):
    def __init__(self, dataset: Dataset[Any] | None = None) -> None:
        super().__init__()
        self.dataset = Pictures() if dataset is None else dataset

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset, BATCH, shuffle=True)


class PictureNet(Tiny):
    def __init__(self) -> None:
        super().__init__(lr=0.05)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(300, 4))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0].float() / 255, batch[1]
