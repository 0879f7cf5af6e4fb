"""Scores by forward passes of their own, for strategies that want instances scored or choose among candidates."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_as.data.batch_sampler import AdaptiveBatchSampler
from lightning_as.data.dataloader import AdaptiveDataLoader, as_it_is
from lightning_as.plugin.forward import ForwardPass, describe
from lightning_as.plugin.observation import Observer
from lightning_as.plugin.rows import take_rows
from lightning_as.plugin.wiring import find_loader, gather_rows
from lightning_as.strategies import BatchSelector, Scores
from lightning_as.strategies.scores import entropies_of


class Scorer:
    """Scores instances of the data set, and candidates, for the strategy that a loader's sampler draws by.

    Args:
        trainer: The Trainer.
        module: The module whose logits are the scores' source.
        observer: What knows the losses and bounds of logits.
        forward_pass: What gives the logits.
    """

    def __init__(
        self, trainer: Trainer, module: LightningModule, observer: Observer, forward_pass: ForwardPass
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._observer = observer
        self._pass = forward_pass
        loader, sampler = find_loader(trainer)
        # Strategies for streams have nothing scored: of those is used no more than both kinds have.
        self._loader, self._sampler = cast(AdaptiveDataLoader, loader), cast(AdaptiveBatchSampler, sampler)

    def try_out(self, batch: Any, size: int) -> None:
        """Score a batch of `size` samples as `training_step` gets it, to no end, if scores may ever be asked for.

        Raises:
            MisconfigurationException: If that does not work.
        """
        strategy = self._sampler.strategy
        if strategy.scoring or isinstance(strategy, BatchSelector):
            with isolate_rng():
                self._score_ready(copy.deepcopy(batch), size)

    def refresh(self) -> None:
        """Score the instances that the strategy wants scored now, if any."""
        strategy = self._sampler.strategy
        wanted = strategy.wanted()
        if wanted is not None and len(wanted):
            with isolate_rng():
                strategy.refresh(wanted, self._score_instances(wanted))

    def attach(self) -> None:
        """Have the loader's batches selected from, if that is what the strategy does."""
        if isinstance(self._loader, AdaptiveDataLoader):
            self._loader.select = self.select if isinstance(self._sampler.strategy, BatchSelector) else None
        self._loader.released = False
        self._sampler.limit = int(self._trainer.num_training_batches)

    def detach(self) -> None:
        """Leave the loader as it was: iterated again, it gives shuffled epochs."""
        if isinstance(self._loader, AdaptiveDataLoader):
            self._loader.select = None
        self._loader.released = True
        self._sampler.limit = None

    def select(self, batch: Any) -> Any:
        """Score a batch of candidates, and cut it down to those that the strategy chooses to train on."""
        sampler, draw = self._sampler, self._sampler.current
        size, candidates = sampler.batch_size, len(sampler.share(draw.indices))
        strategy = sampler.strategy
        if not isinstance(strategy, BatchSelector) or candidates == size:
            return batch
        with isolate_rng():  # the user's hooks may augment
            scores = self._gather(self._score_batch(self._pass.copy(batch), candidates))
        chosen = []
        for rank in range(sampler.num_replicas):
            part = torch.arange(rank, len(draw.indices), sampler.num_replicas, device="cpu")
            own = Scores(*(None if rows is None else rows[part] for rows in scores))
            selection = strategy.select(draw.select(part), own, size, sampler.generator)
            chosen.append((selection, part[selection.positions]))
        positions = torch.stack([at for _, at in chosen], dim=1).flatten()  # as the shares lie in a global batch
        narrowed = draw.select(positions)
        for field in ("weights", "probabilities"):
            parts = [getattr(selection, field) for selection, _ in chosen]
            if parts[0] is not None:
                narrowed = narrowed._replace(**{field: torch.stack(parts, dim=1).flatten()})
        sampler.narrow(narrowed)
        return take_rows(batch, chosen[sampler.rank][0].positions, candidates)

    def _score_instances(self, indices: Tensor) -> Scores:
        """Scores of instances, of which each process scores its share."""
        processes = self._sampler.num_replicas
        padded = torch.cat([indices, indices[:1].expand(-len(indices) % processes)])
        share, loader = self._sampler.share(padded).split(self._sampler.batch_size), self._loader
        chunks = DataLoader(
            loader.dataset,
            sampler=[chunk.tolist() for chunk in share],  # pyright: ignore[reportArgumentType]
            batch_size=None,
            collate_fn=as_it_is,
            num_workers=min(loader.num_workers, len(share)),
            worker_init_fn=loader.worker_init_fn,  # pyright: ignore[reportArgumentType]
            multiprocessing_context=loader.multiprocessing_context if loader.num_workers else None,
        )
        # Brought together chunk by chunk, which is their order, so that no more than one is on the device.
        parts = zip(
            *(self._gather(self._score_batch(*pair)) for pair in zip(chunks, map(len, share), strict=True)), strict=True
        )
        return Scores(*(None if part[0] is None else torch.cat(part)[: len(indices)] for part in parts))

    def _gather(self, scores: Scores) -> Scores:
        """The scores of all processes, in the order of the global batch, on the CPU."""
        rows = gather_rows(self._trainer, list(scores))
        return Scores(*(row.to(torch.float64) if row is not None and row.dim() == 1 else row for row in rows))

    def _score_batch(self, batch: Any, size: int) -> Scores:
        """Scores of this process's own batch of `size` samples, as it comes from a loader."""
        return self._score_ready(self._pass.ready(batch), size)

    def _score_ready(self, batch: Any, size: int) -> Scores:
        reads, observer = self._sampler.strategy.reads, self._observer
        if observer.rows(batch, size).owners is not None:
            raise MisconfigurationException(
                f"`kept` does not go with {type(self._sampler.strategy).__name__}, which has instances scored, each of "
                "which must give one row: leave it out and have the `collate_fn` give that, or use another strategy."
            )
        of_logits = reads - ({"inputs", "losses"} if observer.takes_batch else {"inputs"})
        logits, features = self._forward(batch) if of_logits else (None, None)
        targets = observer.targets_of(batch) if of_logits & {"losses", "bounds"} else None
        of = None if observer.takes_batch else logits
        return Scores(
            observer.losses_of(of, targets, batch) if "losses" in reads else None,
            observer.bounds_of(logits, targets) if logits is not None and "bounds" in reads else None,
            logits if "logits" in reads else None,
            features,
            self._inputs_of(batch) if "inputs" in reads else None,
            entropies_of(logits) if logits is not None and "entropies" in reads else None,
        )

    def _inputs_of(self, batch: Any) -> Tensor:
        inputs = self._pass.inputs(batch)
        if inputs is None:
            raise MisconfigurationException(
                f"{type(self._sampler.strategy).__name__} goes by the inputs, the first tensor of a tuple or the only "
                f"one of a mapping beside the targets, but the batch is {describe(batch)}: give the data that form, "
                "or use another strategy."
            )
        return inputs.flatten(1) if inputs.dim() > 1 else inputs.unsqueeze(1)

    def _forward(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Logits, and the features if they are wanted: what goes into the linear layer that is called last."""
        seen: list[Tensor] = []
        wanted = "features" in self._sampler.strategy.reads
        linear = [part for part in self._module.modules() if wanted and isinstance(part, nn.Linear)]
        handles = [part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for part in linear]
        try:
            logits = self._pass.logits(batch)
        finally:
            for handle in handles:
                handle.remove()
        if not wanted:
            return logits, None
        if not seen or len(seen[-1]) != len(logits):
            raise MisconfigurationException(
                f"{type(self._sampler.strategy).__name__} goes by the inputs of the last linear layer, but no "
                f"torch.nn.Linear in {type(self._module).__name__} was given a row per instance: use another strategy."
            )
        return logits, seen[-1].flatten(1)
