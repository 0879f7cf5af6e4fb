"""A fit of a LightningModule as its own tutorial writes it: not one line is there for us."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_as import AdaptiveDataModule
from tests.helpers.tiny import tiny_fit

N, BATCH, EPOCHS = 48, 8, 4


class TextClassifier(LightningModule):
    """Makes its last layer at once, when the data is known, or on the device, as for sharded training."""

    def __init__(self, made_in: str) -> None:
        super().__init__()
        self.made_in = made_in
        self.embedding = nn.Embedding(20, 16, padding_idx=0)
        self.dropout = nn.Dropout(0.1)
        self.make("init")

    def make(self, place: str) -> None:
        if place == self.made_in:
            self.classifier = nn.Linear(16, 3)

    def setup(self, stage: str) -> None:
        self.make("setup")

    def configure_model(self) -> None:
        self.make("configure_model")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1).float()
        pooled = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return self.classifier(self.dropout(pooled))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = cross_entropy(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])
        self.log("train_loss", loss, batch_size=len(batch["labels"]))
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)]


class Sentences(list[Any]):
    labels = [i % 3 for i in range(N)]  # noqa: RUF012


# Ragged, of words that depend on the label.
SENTENCES = Sentences(
    {"input_ids": [6 * (i % 3) + 1 + (i * word) % 6 for word in range(2 + i % 7)], "label": i % 3} for i in range(N)
)


def pad(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    rows = [torch.tensor(sample["input_ids"]) for sample in samples]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = torch.tensor([sample["label"] for sample in samples])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


class Corpus(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(SENTENCES, batch_size=BATCH, shuffle=True, collate_fn=pad)  # pyright: ignore


@pytest.mark.filterwarnings("ignore:::lightning")
@pytest.mark.parametrize("made_in", ["init", "setup", "configure_model"])
def test_an_unedited_module_is_trained_and_every_batch_is_one_update_of_its_own_instances(tmp_path: Path, made_in: str):
    data, ours = AdaptiveDataModule(Corpus(), seed=0), {"logits_from": "classifier", "weights": "unbiased"}
    strategy, watch, _, module, _ = tiny_fit(
        tmp_path, None, partial(TextClassifier, made_in), data, ours, max_epochs=EPOCHS
    )
    assert len(strategy.told) == len(watch.batches) == EPOCHS * (N // BATCH)
    for (draw, losses, bounds), batch in zip(strategy.told, watch.batches, strict=True):
        samples = pad([SENTENCES[i] for i in draw.indices.tolist()])
        assert all(torch.equal(batch[name], samples[name]) for name in samples)
        assert float(losses.min()) > 0
        assert float(bounds.min()) > 0
    assert float(strategy.told[-1][1].mean()) < 0.5 * float(strategy.told[0][1].mean())
    assert all(len(part._forward_hooks) == 0 for part in module.modules())
