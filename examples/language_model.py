"""A causal language model: the next token at each position, of texts of unequal lengths.

The labels are the tokens themselves, and the model shifts them by one: so does `CrossEntropy(shift=True)`. The loss of
each text is the mean over its own tokens. The bins are the sources of the texts, a column of the data set.

Run it by `python examples/language_model.py`, after `pip install ".[examples]"`. The changed lines end in
`# adaptive sampling`.
"""

import random

import torch
from datasets import ClassLabel, Dataset, Features, Value
from lightning.pytorch import LightningModule, Trainer, seed_everything
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lightning_as import AdaptiveDataLoader, AdaptiveSamplingCallback, CrossEntropy  # adaptive sampling

SOURCES = ["weather", "sums"]


class LanguageModel(LightningModule):
    """An ordinary module: the model computes the loss itself."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocabulary,
                n_positions=64,
                n_embd=32,
                n_layer=1,
                n_head=2,
                bos_token_id=None,
                eos_token_id=None,
            )
        )

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.model(**batch).loss, batch_size=len(batch["labels"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def texts(count: int) -> Dataset:
    """Weather reports, and one sum in ten texts."""
    rows = []
    for _ in range(count):
        if random.random() < 0.9:
            days = [f"{random.choice(['sunny', 'rainy'])} and {random.choice(['cold', 'warm'])}" for _ in range(3)]
            rows.append({"text": " then ".join(days[: random.randint(1, 3)]), "source": 0})
        else:
            a, b = random.randint(0, 20), random.randint(0, 20)
            rows.append({"text": f"{a} plus {b} is {a + b}", "source": 1})
    return Dataset.from_list(rows, Features({"text": Value("string"), "source": ClassLabel(names=SOURCES)}))


def word_tokenizer(train: Dataset) -> PreTrainedTokenizerFast:
    """A tokenizer by words, of the words there are."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(train["text"], trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def main() -> None:
    """Train, and say what a token costs."""
    seed_everything(0)
    train, val = texts(1000), texts(200)
    tokenizer = word_tokenizer(train)
    train, val = (part.map(lambda row: tokenizer(row["text"]), remove_columns=["text"]) for part in (train, val))
    pad = DataCollatorForLanguageModeling(tokenizer, mlm=False)

    def collate(rows):  # the model takes no source
        return pad([{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows])

    train_loader = AdaptiveDataLoader(train, batch_size=16, bins="source", collate_fn=collate)  # adaptive sampling
    val_loader = DataLoader(val, batch_size=100, collate_fn=collate)
    loss = CrossEntropy(shift=True)  # adaptive sampling
    plugin = AdaptiveSamplingCallback(logits_from="model.lm_head", per_sample_loss=loss)  # adaptive sampling
    trainer = Trainer(
        max_epochs=3,
        callbacks=[plugin],  # adaptive sampling
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(LanguageModel(len(tokenizer)), train_loader, val_loader)
    print(f"trained; val loss {trainer.callback_metrics['val/loss']:.2f} nats per token")
    print(f"{plugin.strategy.bin_probabilities[1]:.0%} of what is drawn are sums")  # adaptive sampling


if __name__ == "__main__":
    main()
