"""An embedding of images, trained by a margin loss on distance-weighted triplets.

The negatives are drawn from the batch at hand, which says nothing of how the batch is drawn: this is no
:class:`Strategy`, and goes with any of them.

Source: Wu, Manmatha, Smola and Krähenbühl, "Sampling Matters in Deep Embedding Learning" (2017, arXiv:1706.07567),
section 3 for the negatives, section 4 for the loss.
Cost per step: no extra forward pass; O(batch² · d) for the distances and O(batch² · log batch) for the draw.
Verified: the first author's MXNet example, line by line: distribution, cut-offs, and that each pair of an anchor and a
positive gets a negative of its own. There an anchor without a negative of any weight draws from the whole batch, its
own class included; here from its negatives, all alike. Not verified: the paper's own text.
When to use it: metric learning with a margin loss.
When not: classification; batches with a single class.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_as.core.arguments import check_integer, check_positive

Batch = tuple[Tensor, Tensor]
_CHUNK = 1024  # rows that neighbours are looked for at a time


class DistanceWeightedSampling:
    """Triplets of a batch with negatives whose distances are spread evenly.

    For each anchor a negative at the distance D is drawn from the batch with a probability in proportion to 1/q(D),
    where q(D) ∝ D^(d−2) (1 − D²/4)^((d−3)/2) is the density of the distances of random pairs on the unit sphere in d
    dimensions, so that close, middling and distant ones come about equally often (Wu et al., section 3).

    Args:
        cutoff: Smallest distance that counts, so that the nearest do not take all. Default: 0.5, the authors'.
        nonzero_loss_cutoff: Distance from which on negatives have no weight: the margin plus β of a margin loss.
            Default: 1.4, the authors'.

    Raises:
        ValueError: If not 0 < `cutoff` < `nonzero_loss_cutoff` <= 2.

    Example:
        >>> sampling = DistanceWeightedSampling()
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
        >>> [part.tolist() for part in sampling(embeddings, torch.tensor([0, 0, 1]), torch.Generator())]
        [[0, 1], [1, 0], [2, 2]]
    """

    def __init__(self, cutoff: float = 0.5, nonzero_loss_cutoff: float = 1.4) -> None:
        if not 0 < cutoff < nonzero_loss_cutoff <= 2:
            raise ValueError(
                "`cutoff` and `nonzero_loss_cutoff` must be distances on the unit sphere, 0 < cutoff < "
                f"nonzero_loss_cutoff <= 2, got {cutoff} and {nonzero_loss_cutoff}."
            )
        self.cutoff = cutoff
        self.nonzero_loss_cutoff = nonzero_loss_cutoff

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Triplets of a batch: each pair of one class, in both orders, with a negative that is drawn for it.

        Args:
            embeddings: (B, d); their directions count.
            labels: Class of each, (B,) integers.
            generator: For the draws, on the CPU.

        Returns:
            Positions of the anchors, positives and negatives, (T,) int64 each, on the device of the embeddings. None
            for an anchor without another of its class, or where all are of one class.
        """
        labels = labels.cpu()
        probabilities = self.probabilities(embeddings, labels)
        same = labels.unsqueeze(1) == labels
        pairs = same & (probabilities.sum(1, keepdim=True) > 0)
        anchors, positives = pairs.fill_diagonal_(False).nonzero().unbind(1)
        # One for every entry of the batch's square: a row of probabilities for each pair would not fit into memory.
        uniforms = torch.rand(probabilities.shape, dtype=torch.float64, generator=generator)
        cumulative = probabilities.cumsum(1)
        negatives = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)[anchors, positives]
        return tuple(part.to(embeddings.device) for part in (anchors, positives, negatives))  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def probabilities(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The distribution of each anchor's negatives, (B, B) float64 on the CPU; zeros for an anchor without any."""
        points = normalize(embeddings.cpu().to(torch.float64), dim=1)
        dimensions = points.shape[1]
        distances = (2 - 2 * points @ points.T).clamp_(min=0).sqrt_().clamp_(min=self.cutoff)
        negative = labels.cpu().unsqueeze(1) != labels.cpu()
        weighty = negative & (distances < self.nonzero_loss_cutoff)
        logs = (2 - dimensions) * distances.log() - (dimensions - 3) / 2 * torch.log1p(-distances.square() / 4)
        logs = logs.masked_fill_(~weighty, -torch.inf)
        # Those without a negative of any weight take all negatives alike.
        logs = torch.where(negative & ~weighty.any(1, keepdim=True), 0.0, logs)
        return logs.softmax(1).nan_to_num_(0.0)


class MarginEmbedding(LightningModule):
    """Small convolutional embedding for 28 × 28 grey images, on the unit sphere.

    The loss of a triplet is max(0, D_ap − β + m) + max(0, β − D_an + m) with the distances D of anchor and positive and
    of anchor and negative, a learned border β of the anchor's class and the margin m; the loss of a batch is their sum
    over the number of terms that are not 0. Wu et al., "Sampling Matters in Deep Embedding Learning" (2017), section 4,
    and the first author's MXNet example, whose optimiser for β is SGD; here Adam moves everything.

    Logged: ``train/loss`` and ``val/recall@1``, the share of the validation images whose nearest neighbour, among those
    that the same process has seen, is of their class.

    Args:
        num_classes: Number of classes. Default: 10.
        dimensions: d, of the embedding. Default: 64, this package's.
        margin: m. Default: 0.2, the authors'.
        beta: β of all classes at first. Default: 1.2, the authors'.
        cutoff: See :class:`DistanceWeightedSampling`. Default: 0.5. Its other cut-off is `margin` + `beta`.
        learning_rate: Of Adam. Default: 1e-3, this package's.
        negatives_seed: Seed of the generator that draws negatives, whose state is kept in checkpoints. Default: 0.

    Raises:
        TypeError: If a number of classes or dimensions is not an integer.
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        num_classes: int = 10,
        dimensions: int = 64,
        margin: float = 0.2,
        beta: float = 1.2,
        cutoff: float = 0.5,
        learning_rate: float = 1e-3,
        negatives_seed: int = 0,
    ) -> None:
        super().__init__()
        check_integer("num_classes", num_classes)
        check_integer("dimensions", dimensions, least=2)
        if margin < 0 or beta <= 0 or margin + beta > 2:
            raise ValueError(
                "`margin` must not be negative, `beta` positive and their sum at most 2, the largest distance; got "
                f"{margin} and {beta}."
            )
        check_positive("learning_rate", learning_rate)
        self.save_hyperparameters()
        self.margin = margin
        self.learning_rate = learning_rate
        self.sampling = DistanceWeightedSampling(cutoff, margin + beta)
        self.beta = nn.Parameter(torch.full((num_classes,), beta))
        self.network = nn.Sequential(
            *(nn.Conv2d(1, 32, 5), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 32, 5), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 4 * 4, dimensions)),
        )
        self._generator = torch.Generator().manual_seed(negatives_seed)
        self._seen: list[Batch] = []

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of norm 1, (B, d), of images (B, 1, 28, 28)."""
        return normalize(self.network(images), dim=1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        embeddings = self(images)
        triplets = self.sampling(embeddings, labels, self._generator)
        loss = self.margin_loss(embeddings, labels, triplets)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def margin_loss(self, embeddings: Tensor, labels: Tensor, triplets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The loss of a batch, (), from positions of anchors, positives and negatives; 0 if there are none."""
        anchors, positives, negatives = triplets
        beta = self.beta[labels[anchors]]
        near = _distances(embeddings[anchors], embeddings[positives]) - beta
        far = beta - _distances(embeddings[anchors], embeddings[negatives])
        terms = torch.cat([near, far]).add(self.margin).relu()
        return terms.sum() / (terms > 0).sum().clamp(min=1)

    def on_validation_epoch_start(self) -> None:
        self._seen = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        self._seen.append((self(images), labels))

    def on_validation_epoch_end(self) -> None:
        embeddings, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen = []
        self.log("val/recall@1", recall_at_1(embeddings, labels), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["negatives"] = self._generator.get_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._generator.set_state(checkpoint["negatives"].cpu())


def recall_at_1(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Share of embeddings, (M, d) of norm 1, whose nearest other one has their label, (M,): a tensor ()."""
    hits = []
    for start in range(0, len(embeddings), _CHUNK):
        rows = embeddings[start : start + _CHUNK]
        similarities = rows @ embeddings.T
        own = torch.arange(len(rows), device=rows.device)
        similarities[own, own + start] = -torch.inf
        hits.append(labels[similarities.argmax(1)] == labels[start : start + _CHUNK])
    return torch.cat(hits).to(torch.float32).mean()


def _distances(some: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances row by row, (T,), with a gradient where they are 0, too."""
    return ((some - others).square().sum(1) + 1e-8).sqrt()
