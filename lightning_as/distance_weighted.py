"""Distance-weighted sampling: the negatives of an embedding loss, of all distances alike.

An embedding is trained on triplets of an anchor, a positive of its class and a negative of another. On the unit sphere
in d dimensions the distances D of random pairs pile up near √2, with the density q(D) ∝ D^(d−2) (1 − D²/4)^((d−3)/2).
For each anchor a negative at the distance D is drawn from the batch with a probability in proportion to 1/q(D),

    log w(D) = (2 − d) log D − (d − 3)/2 · log(1 − D²/4),

so that close, middling and distant ones come about equally often. D counts as at least `cutoff`, and negatives from
`nonzero_loss_cutoff` on, which no longer have a loss, have no weight. This samples pairs inside a batch, and says
nothing of which batch: it is no :class:`Strategy`, and goes with any of them.

Source: Wu, Manmatha, Smola and Krähenbühl, "Sampling Matters in Deep Embedding Learning" (2017, arXiv:1706.07567),
section 3.
Cost per step: no forward pass; O(batch² · d) for the distances and O(pairs · batch) for the draw.
Verified: the first author's MXNet example, line by line: law, cut-offs, and that each pair of an anchor and a positive
gets a negative of its own. There an anchor without a negative of any weight draws from the whole batch, its own class
included; here from its negatives, all alike. NOT verified: the paper's own text.
When to use it: metric learning with a margin loss.
When not: classification; batches with a single class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


class DistanceWeightedSampling:
    """Triplets of a batch with negatives whose distances are spread evenly.

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
        law = self.probabilities(embeddings, labels)
        same = labels.unsqueeze(1) == labels
        pairs = same & (law.sum(1, keepdim=True) > 0)
        anchors, positives = pairs.fill_diagonal_(False).nonzero().unbind(1)
        # One for every entry of the batch's square: a row of the law for each pair would not fit into memory.
        uniforms = torch.rand(law.shape, dtype=torch.float64, generator=generator)
        cumulative = law.cumsum(1)
        negatives = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)[anchors, positives]
        return tuple(part.to(embeddings.device) for part in (anchors, positives, negatives))  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def probabilities(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The law of the negatives of each anchor, (B, B) float64 on the CPU; a row of zeros for one without any."""
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
