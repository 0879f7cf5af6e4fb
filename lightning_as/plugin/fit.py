"""One fit: the sampler its batches come from, and all that looks at them on their way."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_as.core.draw import Draw
from lightning_as.data.iterable import AdaptiveIterableLoader
from lightning_as.data.sharded_sampler import ShardedBatchSampler
from lightning_as.data.stream_sampler import StreamSampler
from lightning_as.plugin.arguments import Options
from lightning_as.plugin.candidates import Candidates
from lightning_as.plugin.figures import Figures
from lightning_as.plugin.forward import ForwardPass
from lightning_as.plugin.hooks import is_compiled
from lightning_as.plugin.looks import Observation, merged
from lightning_as.plugin.observation import Observer
from lightning_as.plugin.rows import Rows, gather_kept
from lightning_as.plugin.scoring import Scorer
from lightning_as.plugin.sharding import brought_back, in_all, prepare
from lightning_as.plugin.takeover import OtherData, take_over
from lightning_as.plugin.turn import Turn
from lightning_as.plugin.weights import Weights
from lightning_as.plugin.wiring import Loader, Sampler, check_labels, find_loader, gather_draw
from lightning_as.strategies import Strategy


class Fit:
    """What the callback has at work during a fit, made at its start and left at its end.

    Args:
        trainer: The Trainer.
        module: The module that is trained.
        strategy: The method.
        observer: What finds out about the batches that are trained on; its hooks are on the module already.
        weights: The weights on their losses.
        forward_pass: What gives logits for scores.
        other_data: As in the callback.
    """

    sampler: Sampler
    """Where the batches come from; there from :meth:`attach` on, as is the scorer."""
    _scorer: Scorer | None = None

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        strategy: Strategy,
        observer: Observer,
        weights: Weights,
        forward_pass: ForwardPass,
        other_data: OtherData,
    ) -> None:
        self.trainer = trainer
        self.observer = observer
        self.weights = weights
        self._module = module
        self._strategy = strategy
        self._pass = forward_pass
        self._other_data: OtherData = other_data
        self._turn = Turn(trainer)
        self._loader: Loader | None = None
        self._checked = False
        self._at_work = False  # whether a batch is being trained on
        self._handed: dict[str, Any] = {}
        # Bins of this process's share of the batch that is trained on.
        self._drawn = torch.empty(0, dtype=torch.int64, device="cpu")
        self._rows = Rows(0)
        self.figures = Figures(strategy)

    def attach(self, previous: Sampler | None, state: dict[str, Any] | None) -> Sampler:
        """Have the batches drawn by the strategy, whichever loader they come from now.

        To be called when training begins, and when each epoch does.

        Args:
            previous: The sampler that the strategy drew by before. If this is another one of equal data and bins, it
                goes on where that one was.
            state: What the callback has saved, to go on from instead: the state of a sampler, and that of the figures
                if there were any. Of other data both are left. Default: none.

        Returns:
            The sampler.

        Raises:
            MisconfigurationException: If there is no sampler of ours.
            ValueError: If the state is of something else.
        """
        if self._scorer is not None:
            self._turn.begin_epoch()
        else:
            self._turn.begin()
            if state is None and previous is not None:
                previous.end_epoch()  # a fit that was broken off is not gone on with
        loader, sampler = find_loader(self.trainer)
        if self._scorer is None or sampler is not previous:
            prepare(self.trainer, sampler)
        if state is not None:
            state = brought_back(self.trainer, sampler, self._strategy, state, self._other_data)
        saved = None if state is None else state["sampler"]
        if not take_over(self.trainer, self._strategy, sampler, previous, saved, self._other_data):
            self.figures.forget()
        elif state is not None and "figures" in state:
            self.figures.load_state_dict(state["figures"])
        self.observer.reads = self._strategy.reads  # which may depend on the bins that it has been started with
        self.observer.on_host = sampler.bins_at_work.on_host
        self._leave()  # a loader that may have been replaced
        self._scorer = Scorer(self.trainer, self._module, self.observer, self._pass)
        self._scorer.attach()
        loader.turn, self._loader = self._turn, loader
        self.sampler = sampler
        return sampler

    def refresh(self) -> None:
        """Score the instances that the strategy wants scored now, if any."""
        if self._scorer is not None:
            self._scorer.refresh()

    def begin_batch(self, batch: Any) -> None:
        """Check the first batch before it is trained on; hand out the weights; watch from now on."""
        draw = self.sampler.current
        self._drawn = self.sampler.share(draw.bins)
        self._rows = self.observer.rows(batch, len(self._drawn))
        size = self._rows.size
        if not self._checked:
            self._check(batch, size)
        self._checked = self._at_work = True
        weights = self.weights.of(draw)
        weights = self.weights.hand_out(None if weights is None else self._rows.spread(self.sampler.share(weights)))
        self.observer.arm(size, weights, scale=not self.weights.by_module, batch=batch)

    def hand_over(self, losses: Any, logits: Any) -> None:
        """Take losses or logits of the batch that is being trained on as if `training_step` had returned them."""
        if self._at_work:
            given = {"losses": losses, "logits": logits}
            self._handed |= {
                name: value.detach() if isinstance(value, Tensor) else value
                for name, value in given.items()
                if value is not None
            }

    def observe(self, outputs: Any, batch: Any, look: bool) -> Observation | None:
        """What is known of the batch that was trained on.

        Args:
            outputs: What `training_step` returned.
            batch: The batch.
            look: Whether to look at the labels, which off the CPU is to wait for them.
        """
        if self._handed:
            outputs = {**(outputs if isinstance(outputs, Mapping) else {}), **self._handed}
        seen = self.observer.observe(outputs, batch, self._rows.size, look and self._labelled)
        if seen is None:
            return None
        self._check_labels(seen.labels)
        losses, bounds = (self._rows.merge(part) for part in (seen.losses, seen.bounds))
        return Observation(losses, bounds, None, merged(seen.look, self._rows))

    def learn(self, draw: Draw, seen: Observation) -> None:
        """Tell the strategy, the record and the figures what was found of a batch, in all processes alike.

        Of a sharded one each process is told of its own, and of an empty one as well: P may wait for all processes.
        """
        look, bins, sharded = seen.look, self.sampler.bins_at_work, self._sharded
        alone = (self.trainer.world_size == 1 or sharded) and self._rows.there is None
        rows = [seen.losses, seen.bounds, *(() if alone else look)]
        if isinstance(self.sampler, StreamSampler):
            draw = gather_draw(self.trainer, draw)
        told, (losses, bounds, *rest) = gather_kept(self.trainer, draw, rows, self._rows.there, bins.device, sharded)
        if len(told.indices) or sharded:
            self._strategy.update(told, losses, bounds)
        if not len(told.indices):
            return
        look = look.to(bins.device).to(torch.float64) if alone else torch.stack(rest)
        if self._strategy.record is not None:
            self._strategy.record.add(told.indices, look)
        self.figures.add(told, look)

    def end_batch(self) -> None:
        """Watch no longer; take back the weights; score what the strategy wants scored before the next draw."""
        self._stop()
        self.refresh()

    def figures_of(self, draw: Draw) -> dict[str, float]:
        """What is logged of a batch that was drawn, and the last ones."""
        figures = self._strategy.metrics() | {"skipped": float(self._strategy.skipped)}
        weights = self.weights.of(draw)
        if weights is not None:
            figures |= {"weight_mean": float(weights.mean()), "weight_max": float(weights.max())}
        if not self._sharded:
            return self.figures.log() | figures
        sums, figures = in_all(self.trainer, self.figures.sums(), figures)
        return self.figures.log(sums) | figures

    def summary(self) -> str | None:
        """What was drawn, in a few lines; None if nothing was, or nobody keeps a record."""
        return self.figures.summary()

    def close(self) -> None:
        """Leave the module and the loader as they were."""
        self._stop()
        self.observer.remove()
        self._leave()
        if isinstance(self._loader, AdaptiveIterableLoader):
            self._loader.end_workers()

    def _check(self, batch: Any, size: int) -> None:
        """Try what can be tried before the first batch is trained on."""
        self._check_labels(self.observer.labels(batch, size) if self._labelled else None)
        self.observer.check_bounds()
        if self._scorer is not None:
            self._scorer.try_out(batch, len(self._drawn))
        if not self.observer.seeks_logits:
            return
        if self.observer.recompute is not None:
            with isolate_rng():
                self.observer.recompute(copy.deepcopy(batch))
        elif not is_compiled(self._module):
            self.observer.candidates = Candidates(self._module, size, self.sampler.bins.labels)

    def _stop(self) -> None:
        """Watch no longer; take back the weights."""
        self._at_work, self._handed = False, {}
        self.observer.disarm()
        if self.observer.candidates is not None:
            self.observer.candidates.remove()
            self.observer.candidates = None
        self.weights.take_back()

    def _leave(self) -> None:
        """Leave the loader as it was."""
        if self._scorer is not None and self._loader is not None:
            self._scorer.detach()
            self._loader.turn = None

    @property
    def _sharded(self) -> bool:
        return isinstance(self.sampler, ShardedBatchSampler)

    @property
    def _labelled(self) -> bool:
        return self.sampler.bins.labels is not None

    def _check_labels(self, labels: Tensor | None) -> None:
        """Raise if the bins are classes, and a batch has targets of others than were drawn."""
        if labels is not None:
            check_labels(self.sampler.own_bins, self._rows.spread(self._drawn), labels)


def begin(trainer: Trainer, module: LightningModule, strategy: Strategy, options: Options) -> Fit:
    """A fit of a module that has all its layers, but has not been compiled yet.

    Raises:
        MisconfigurationException: If an option and the module do not go together.
    """
    weights = Weights(
        module,
        strategy,
        options.weights,
        options.weight_limit,
        options.weight_power,
        options.logits_from is not None,
        options.weights_attribute,
    )
    own = ForwardPass(trainer, module, options.logits_from, options.forward, options.target_key)
    observer = Observer(
        module,
        options.logits_from,
        own.logits if options.recompute else None,
        options.target_key,
        options.per_sample_loss,
        options.gradient_bound,
        strategy.reads,
        options.kept,
        options.compare_loss,
    )
    return Fit(trainer, module, strategy, observer, weights, own, options.other_data)
