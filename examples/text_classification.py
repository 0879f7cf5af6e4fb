"""Text classification: a transformer of Hugging Face, its `datasets`, and batches padded by `DataCollatorWithPadding`.

The model is a BERT of random weights and the texts are made up, so that nothing is downloaded; with
`from_pretrained` and `load_dataset` in their places the lines for adaptive sampling are the same. The bins are the
classes, which the column `label` has. The batches are mappings, in which `labels` has the targets.

Run it by `python examples/text_classification.py`, after `pip install ".[examples]"`. The changed lines end in
`# adaptive sampling`.
"""

import random

import torch
from datasets import Dataset
from lightning.pytorch import LightningModule, Trainer, seed_everything
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, DataCollatorWithPadding, PreTrainedTokenizerFast

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback  # adaptive sampling

KINDS = ["praise", "complaint", "question"]
WORDS = {
    "praise": ["great", "lovely", "quick", "friendly", "perfect", "thanks", "happy", "again"],
    "complaint": ["broken", "late", "rude", "refund", "never", "slow", "angry", "again"],
    "question": ["when", "where", "how", "does", "open", "which", "size", "again"],
}
FILLERS = ["the", "a", "order", "parcel", "shop", "it", "was", "is", "my", "you", "and", "to", "of", "today"]


class Classifier(LightningModule):
    """An ordinary fine-tuning module: the model computes the loss itself."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            num_labels=len(KINDS),
        )
        self.model = BertForSequenceClassification(config)

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def validation_step(self, batch, batch_idx):
        guesses = self.model(**batch).logits.argmax(1)
        self.log("val/accuracy", (guesses == batch["labels"]).float().mean(), batch_size=len(guesses))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def texts(count: int, shares: list[float]) -> Dataset:
    """Texts of 5 to 20 words, one in five of which tells the kind."""
    rows = []
    for label in random.choices(range(len(KINDS)), shares, k=count):
        kind = WORDS[KINDS[label]]
        length = random.randint(5, 20)
        rows.append({"text": " ".join(random.choice(kind if not i % 5 else FILLERS) for i in range(length))})
        rows[-1]["label"] = label
    return Dataset.from_list(rows)


def word_tokenizer(train: Dataset) -> PreTrainedTokenizerFast:
    """A tokenizer by words, of the words there are."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(train["text"], trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def main() -> None:
    """Train on an imbalanced set, validate on a balanced one."""
    seed_everything(0)
    train, val = texts(800, [0.8, 0.15, 0.05]), texts(300, [1, 1, 1])
    tokenizer = word_tokenizer(train)
    train, val = (part.map(lambda row: tokenizer(row["text"]), remove_columns="text") for part in (train, val))
    collate = DataCollatorWithPadding(tokenizer)
    train_loader = AdaptiveDataLoader(train, batch_size=16, collate_fn=collate)  # adaptive sampling
    val_loader = DataLoader(val, batch_size=100, collate_fn=collate)
    plugin = AdaptiveSamplingCallback(logits_from="model.classifier")  # adaptive sampling
    trainer = Trainer(
        max_epochs=3,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(len(tokenizer)), train_loader, val_loader)
    print(f"trained; val accuracy {trainer.callback_metrics['val/accuracy']:.2f}")


if __name__ == "__main__":
    main()
