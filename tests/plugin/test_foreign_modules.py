"""LightningModules as their own tutorials write them: not one line is there for us."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate
from torchvision.models import resnet18

from lightning_as import AdaptiveDataLoader, AdaptiveDataModule, AdaptiveSamplingCallback, Bins
from lightning_as.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from tests.helpers.recording import Recording

MakeTrainer = Callable[..., Trainer]
N, BATCH, EPOCHS = 48, 8, 4


# --- The modules ---


class PlainCNN(LightningModule):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1))
        self.classifier = nn.Linear(8 * 4 * 4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", cross_entropy(self(x), y), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class FineTunedResNet(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = resnet18(weights=None)
        for parameter in self.model.parameters():
            parameter.requires_grad = False
        self.model.fc = nn.Linear(self.model.fc.in_features, 3)
        self.loss = nn.CrossEntropyLoss()

    def train(self, mode: bool = True) -> "FineTunedResNet":
        super().train(mode)
        for part in self.model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels = batch
        outputs = self(inputs)
        accuracy = (outputs.argmax(dim=1) == labels).float().mean()
        self.log("train_acc", accuracy)
        return self.loss(outputs, labels)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.model.fc.parameters(), lr=0.01, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)]


class TinyMixer(nn.Module):
    """With the interface of timm's models."""

    def __init__(self, num_classes: int, dim: int = 16) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Conv2d(1, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.stem(x).flatten(2).transpose(1, 2))

    def forward_head(self, x: Tensor) -> Tensor:
        return self.head(x.mean(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class LabelSmoothingCrossEntropy(nn.Module):
    """As in timm.loss."""

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.confidence = 1.0 - smoothing

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        logprobs = torch.log_softmax(x, dim=-1)
        nll_loss = -logprobs.gather(dim=-1, index=target.unsqueeze(1)).squeeze(1)
        smooth_loss = -logprobs.mean(dim=-1)
        return (self.confidence * nll_loss + self.smoothing * smooth_loss).mean()


class TimmStyle(LightningModule):
    def __init__(self, mixup: float = 0.0, smoothing: float = 0.1) -> None:
        super().__init__()
        self.model = TinyMixer(num_classes=3)
        self.mixup_fn = None if mixup == 0 else NotImplemented
        self.criterion = LabelSmoothingCrossEntropy(smoothing=smoothing)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        images, target = batch
        if self.mixup_fn is not None:
            raise NotImplementedError
        return {"loss": self.criterion(self(images), target)}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.05)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class TabularBinary(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
        self.criterion = nn.BCEWithLogitsLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = self.criterion(logits, y)
        self.log_dict({"loss": loss, "acc": ((logits > 0) == (y > 0.5)).float().mean()}, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class UNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.bottom = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.outc = nn.Conv2d(16, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.outc(torch.cat([skip, self.up(self.bottom(skip))], dim=1))


class Segmentation(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet(classes=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.unet(x)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        img, mask = batch
        img, mask = img.float(), mask.long()
        loss = cross_entropy(self(img), mask)
        return {"loss": loss}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class TextClassifier(LightningModule):
    def __init__(self, vocabulary: int = 20) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16, padding_idx=0)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1).float()
        pooled = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return self.classifier(self.dropout(pooled))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(batch["input_ids"], batch["attention_mask"])
        loss = cross_entropy(logits, batch["labels"])
        self.log("train_loss", loss, batch_size=len(batch["labels"]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=5e-2)


class Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = mse_loss(self.layers(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


# --- Their data ---


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class LabelledImages(Dataset[Any]):
    """Each class is bright in a row of its own, under noise; loaded one by one, as from files."""

    def __init__(self, channels: int, size: int) -> None:
        self.targets = [i % 3 for i in range(N)]
        self.images = 0.3 * torch.randn(N, channels, size, size, generator=seeded())
        for image, target in zip(self.images, self.targets, strict=True):
            image[:, target * size // 3] += 1

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index].clone(), self.targets[index]


def tabular() -> tuple[Tensor, Tensor]:
    x = torch.randn(N, 6, generator=seeded())
    return x, x[:, :1] - x[:, 1:2] + 0.1 * torch.randn(N, 1, generator=seeded())


def binary() -> TensorDataset:
    x, score = tabular()
    return TensorDataset(x, (score[:, 0] > 0).float())


def masks() -> TensorDataset:
    mask = torch.rand(N, 1, 4, 4, generator=seeded()) > torch.linspace(0, 1, N).view(-1, 1, 1, 1)
    mask = mask.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return TensorDataset(mask + 0.1 * torch.randn(mask.shape, generator=seeded()), mask[:, 0].to(torch.uint8))


class Sentences(Dataset[Any]):
    def __init__(self) -> None:
        generator = seeded()
        self.labels = torch.arange(N) % 3
        lengths = torch.randint(2, 9, (N,), generator=generator).tolist()
        draws = [torch.randint(1, 7, (length,), generator=generator) for length in lengths]
        self.tokens = [(6 * label + draw).tolist() for label, draw in zip(self.labels.tolist(), draws, strict=True)]

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[index], "label": int(self.labels[index])}


def pad(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(sample["input_ids"]) for sample in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.int64)
    for row, sample in zip(ids, samples, strict=True):
        row[: len(sample["input_ids"])] = torch.tensor(sample["input_ids"])
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "labels": torch.tensor([sample["label"] for sample in samples]),
    }


class Corpus(LightningDataModule):
    def setup(self, stage: str) -> None:
        self.train = Sentences()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=BATCH, shuffle=True, collate_fn=pad)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=BATCH, collate_fn=pad)


# --- What is asked of all of them ---


@dataclass
class Case:
    """A module, its data, and all that a user adds for us."""

    module: Callable[[], LightningModule]
    dataset: Callable[[], Any]
    loss: Callable[[Tensor, Tensor], Tensor]
    """The user's: of one sample's logits and targets, as a batch of one."""
    callback: dict[str, Any]
    wrap: Callable[[Any], Any] = lambda dataset: AdaptiveDataLoader(dataset, BATCH, seed=0)
    collate: Callable[[Any], Any] = default_collate
    targets: Callable[[Any], Tensor] = field(default=lambda batch: batch[1])
    inputs: Callable[[Any], tuple[Tensor, ...]] = field(default=lambda batch: (batch[0],))


CASES = {
    "plain CNN": Case(
        PlainCNN,
        lambda: LabelledImages(1, 8),
        cross_entropy,
        {"logits_from": "classifier"},
    ),
    "fine-tuned ResNet": Case(
        FineTunedResNet,
        lambda: LabelledImages(3, 32),
        cross_entropy,
        {"logits_from": "model.fc"},
        wrap=lambda dataset: AdaptiveDataModule(dataset, BATCH, seed=0),
    ),
    "timm with label smoothing": Case(
        TimmStyle,
        lambda: LabelledImages(1, 8),
        lambda z, y: cross_entropy(z, y, label_smoothing=0.1),
        {"logits_from": "model", "per_sample_loss": CrossEntropy(label_smoothing=0.1)},
    ),
    "tabular with yes or no": Case(
        TabularBinary,
        binary,
        lambda z, y: binary_cross_entropy_with_logits(z[:, 0], y),
        {"logits_from": "net", "per_sample_loss": BinaryCrossEntropy()},
        wrap=lambda dataset: AdaptiveDataLoader(dataset, BATCH, bins=dataset.tensors[1].long(), seed=0),
    ),
    "U-Net": Case(
        Segmentation,
        masks,
        lambda z, y: cross_entropy(z, y.long()),
        {"logits_from": "unet.outc"},
        wrap=lambda dataset: AdaptiveDataLoader(dataset, BATCH, bins=None, seed=0),
    ),
    "text in mappings": Case(
        TextClassifier,
        Sentences,
        cross_entropy,
        {"logits_from": "classifier"},
        wrap=lambda dataset: AdaptiveDataModule(Corpus(), seed=0),
        collate=pad,
        targets=lambda batch: batch["labels"],
        inputs=lambda batch: (batch["input_ids"], batch["attention_mask"]),
    ),
    "regression": Case(
        Regression,
        lambda: TensorDataset(*tabular()),
        mse_loss,
        {"logits_from": "layers", "per_sample_loss": MeanSquaredError()},
        wrap=lambda dataset: AdaptiveDataModule(
            dataset, BATCH, bins=lambda data: Bins.from_quantiles([float(y) for _, y in data], 4), seed=0
        ),
    ),
}


class Witness(Callback):
    """Sees the batches and, by a hook of its own, the logits of the training passes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.logits: list[Tensor] = []
        self.batches: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        def see(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if module.training:
                self.logits.append(output.detach().clone())

        self.handle = pl_module.get_submodule(self.name).register_forward_hook(see)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_train_end(self, trainer: Any, pl_module: LightningModule) -> None:
        self.handle.remove()


def one_by_one(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each sample as a batch of its own, and the squared norm of its gradient."""
    losses, bounds = [], []
    for z, y in zip(logits.double().split(1), targets.split(1), strict=True):
        z.requires_grad_()
        y = y.double() if y.is_floating_point() else y
        losses.append(loss(z, y))
        (gradient,) = torch.autograd.grad(losses[-1], z)
        bounds.append(gradient.square().sum())
    return torch.stack(losses).detach(), torch.stack(bounds)


@torch.no_grad()
def mean_loss(case: Case, module: LightningModule, dataset: Any) -> float:
    """Over the data set, in evaluation mode."""
    batch = case.collate([dataset[i] for i in range(N)])
    logits = module.eval()(*case.inputs(batch))
    module.train()
    return float(case.loss(logits.view(N, -1) if logits.dim() == 1 else logits, case.targets(batch)))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_unedited_module_is_trained_and_every_batch_is_one_update_of_its_own_instances(
    case: Case, make_trainer: MakeTrainer
):
    torch.manual_seed(0)
    module, dataset, strategy = case.module(), case.dataset(), Recording()
    witness = Witness(case.callback["logits_from"])
    before = mean_loss(case, module, dataset)
    trainer = make_trainer(callbacks=[AdaptiveSamplingCallback(strategy, **case.callback), witness], max_epochs=EPOCHS)
    trainer.fit(module, case.wrap(dataset))
    assert len(strategy.told) == len(witness.logits) == len(witness.batches) == EPOCHS * (N // BATCH)
    for (draw, losses, bounds), logits, batch in zip(strategy.told, witness.logits, witness.batches, strict=True):
        samples = case.collate([dataset[i] for i in draw.indices.tolist()])
        for seen, drawn in zip(case.inputs(batch), case.inputs(samples), strict=True):
            assert torch.equal(seen, drawn)
        expected, norms = one_by_one(case.loss, logits, case.targets(samples))
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(bounds, norms, rtol=1e-4, atol=1e-7)
    law = strategy.probabilities()
    assert bool(law.isfinite().all())
    assert bool((law > 0).all())
    assert float(law.max()) > 1.1 * float(law.min())
    assert bool(strategy.state_dict()["inside"]["leaves"].isfinite().all())
    assert strategy.skipped == 0
    assert all(len(part._forward_hooks) == 0 for part in module.modules())
    assert mean_loss(case, module, dataset) < 0.9 * before


def fit(make_trainer: MakeTrainer, module: LightningModule, data: Any, **options: Any) -> Recording:
    strategy = Recording()
    callback = AdaptiveSamplingCallback(strategy, **{"logits_from": "classifier", **options})
    make_trainer(callbacks=[callback]).fit(module, data)
    return strategy


class BuiltInSetup(PlainCNN):
    """Layers that are made when the data is known."""

    def __init__(self) -> None:
        super().__init__()
        del self.classifier

    def setup(self, stage: str) -> None:
        self.classifier = nn.Linear(8 * 4 * 4, 3)


class BuiltInConfigureModel(PlainCNN):
    """Layers that are made on the device, as for sharded training."""

    def __init__(self) -> None:
        super().__init__()
        del self.classifier

    def configure_model(self) -> None:
        self.classifier = nn.Linear(8 * 4 * 4, 3)


@pytest.mark.parametrize("module", [BuiltInSetup, BuiltInConfigureModel])
@pytest.mark.parametrize("weights", ["none", "unbiased"])
def test_a_module_may_build_its_layers_as_late_as_lightning_lets_it(
    make_trainer: MakeTrainer, module: type[LightningModule], weights: str
):
    strategy = fit(make_trainer, module(), AdaptiveDataLoader(LabelledImages(1, 8), BATCH, seed=0), weights=weights)
    assert len(strategy.told) == N // BATCH


class Augmenting(PlainCNN):
    """Augments on the device, as in Lightning's tutorial with Kornia."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return (x.flip(3) + 100, y) if self.training else batch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        assert batch[0].mean() > 50, "not augmented"
        return super().training_step(batch, batch_idx)


class Images(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(LabelledImages(1, 8), BATCH, shuffle=True)


@pytest.mark.parametrize(
    "data",
    [
        lambda: AdaptiveDataLoader(LabelledImages(1, 8), BATCH, seed=0),
        lambda: AdaptiveDataModule(LabelledImages(1, 8), BATCH, seed=0),
        lambda: AdaptiveDataModule(Images(), seed=0),
    ],
    ids=["loader", "data set in a DataModule", "DataModule in a DataModule"],
)
def test_a_module_that_augments_on_the_device_still_does(make_trainer: MakeTrainer, data: Any):
    assert len(fit(make_trainer, Augmenting(), data()).told) == N // BATCH


class Tempered(PlainCNN):
    """Changes its logits in place."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(self.features(x).flatten(1))
        logits /= 2.0
        return logits


@pytest.mark.parametrize("weights", ["none", "unbiased"])
def test_a_module_that_changes_its_logits_in_place_is_trained(make_trainer: MakeTrainer, weights: str):
    data = AdaptiveDataLoader(LabelledImages(1, 8), BATCH, seed=0)
    assert len(fit(make_trainer, Tempered(), data, weights=weights).told) == N // BATCH


class Distillation(PlainCNN):
    """Asks its network for logits more than once in a step, of batches of several sizes, with and without gradient."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        self(x[:3])
        loss = cross_entropy(self(x), y)
        with torch.no_grad():
            self(torch.zeros_like(x))
        return loss


def test_other_passes_of_the_same_step_are_not_taken_for_the_one_that_is_trained_on(make_trainer: MakeTrainer):
    torch.manual_seed(0)
    module = Distillation()
    module.features[3] = nn.Identity()
    with torch.no_grad():
        logits = module(LabelledImages(1, 8).images)
    strategy = fit(make_trainer, module, AdaptiveDataLoader(LabelledImages(1, 8), BATCH, seed=0))
    draw, losses, _ = strategy.told[0]
    expected = cross_entropy(logits[draw.indices], draw.indices % 3, reduction="none")
    torch.testing.assert_close(losses, expected.double())
