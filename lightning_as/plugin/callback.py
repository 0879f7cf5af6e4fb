"""The plugin: a Lightning callback that feeds what training finds out back into the sampler."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lightning_as.core.draw import Weighting
from lightning_as.plugin.arguments import Options, check_options, check_strategy
from lightning_as.plugin.criterion import PerSample
from lightning_as.plugin.figures import Figures
from lightning_as.plugin.fit import Fit, begin
from lightning_as.plugin.forward import Forward
from lightning_as.plugin.recorded import Recorded
from lightning_as.plugin.sharding import saved
from lightning_as.plugin.takeover import OtherData
from lightning_as.plugin.wiring import (
    Sampler,
    check_processes_agree,
    claim,
    find_loader,
    logs_now,
    refuse_nested_fit,
    refuse_overfit_batches,
    validation_metrics,
)
from lightning_as.strategies import ClosenessSampling, Strategy


class AdaptiveSamplingCallback(Recorded):
    """Samples the training batches by a strategy, and updates it after every batch.

    The batches come from an :class:`AdaptiveDataLoader`, an :class:`AdaptiveDataModule` or one of the ready
    DataModules; or, by :class:`KeepOrSkip`, from an :class:`AdaptiveIterableLoader`. What the callback needs to know of
    a batch, it takes from where it is, in this order:

    1. ``losses`` (B,) and ``logits`` (B, …) in what `training_step` returns beside ``loss``, or ``logits`` alone;
    2. the output of the submodule `logits_from`, seen by a forward hook: the module stays as it is;
    3. with `recompute`, a forward pass of its own after each step, in evaluation mode.

    The first two count as they are: of the training-mode forward pass, before the update. What a `training_step`
    cannot return, as in manual optimization, it gives by :func:`lightning_as.hand_over`.

    A Trainer has one such callback, and a callback a strategy of its own: of two, Lightning says that a `state_key` is
    missing.

    Logged every ``log_every_n_steps``: ``adaptive/ess``, the share of the data that the draws are effectively spread
    over (on the CPU also in the bar); ``adaptive/loss``, the data's mean loss; ``adaptive/gain`` and
    ``adaptive/variance_ratio``, what the draws are worth, see :mod:`lightning_as.plugin.figures`; with weights
    ``adaptive/weight_mean`` and ``adaptive/weight_max``; the strategy's own figures, see its ``metrics``; and
    ``adaptive/skipped`` (losses that were not finite). At the end some lines sum up what was drawn.

    Args:
        strategy: The method; the thesis's is :class:`AdaptiveSampling`. Default: :class:`ClosenessSampling`.
        logits_from: Name of the submodule that gives the logits, such as ``"net"``. With `weights` nothing after it may
            have parameters to train. Default: none.
        recompute: Compute logits anew if they are nowhere to be seen. Default: False.
        forward: What gives the logits of a batch in forward passes of the plugin's own, for `recompute` and strategies
            that score instances: a function of the batch, or of the module and the batch, such as
            ``lambda module, batch: module(batch.x, batch.mask)``. Default: the module's `forward`, or if it has none
            the submodule `logits_from`, called on the first of a pair, on those entries of a mapping that are its
            arguments, without the targets, or on an object. Whether that works is tried before the first step.
        target_key: What holds the targets in a batch. Default: the second of a pair, or what a mapping or
            an object has under ``targets``, ``target``, ``labels``, ``label`` or ``y``.
        per_sample_loss: The loss of each sample, for modules that do not return ``losses``: one of
            :mod:`lightning_as.losses`; a criterion of torch or of your own, called with logits and targets, with its
            mean over the batch undone; the name of one that the module has, such as ``"criterion"``; or a function of
            the batch alone. Default: cross-entropy.
        gradient_bound: The squared norm of the gradient of each sample's loss with respect to the logits. A function of
            logits and targets; or ``"autograd"``: as observed in the module's own backward pass, for losses that are a
            mean over the batch (needs `logits_from`). Default: that of `per_sample_loss`.
        weights: Weights on the loss. ``"source"``: those that the strategy's source asks for, if it does. ``"none"``,
            ``"unbiased"``, ``"clipped"``, ``"power"``: see :func:`importance_weights`. They reach the loss through the
            gradient of the output of `logits_from`; or, if the module has the attribute `weights_attribute`, that is
            the batch's weights (B,) during each training step and None otherwise, and using them is up to the module.
            Default: ``"source"``; for `ClosenessSampling` and `AdaptiveSampling` that is none: the loss is re-weighted
            towards what is drawn often.
        weight_limit: The largest weight of ``"clipped"``. Default: 10.
        weight_power: The exponent of ``"power"``. Default: 0.5.
        weights_attribute: Name of the attribute for the weights, for a module that has something else under this one.
            Default: ``"importance_weights"``.
        kept: What holds, for each row of a batch, the position of its sample among those that were drawn, 0 to B − 1,
            (rows,) integers, where the `collate_fn` sorts samples, leaves some out or makes several rows of one,
            which are then averaged. Default: row i is of sample i.
        compare_loss: Whether the loss of the first batches is compared with the mean of the samples', with a warning
            where they differ. Default: True.
        examples: Whether to keep a record of each instance for :meth:`examples`, 56 bytes, in the checkpoint, too; or a
            path that ends in .csv or .parquet, to which the table is also written at the end of a fit, even of one
            that breaks off, but not of a `fast_dev_run`. Default: True.
        other_data: When the data set is another than the strategy has learnt from, in the same bins, as by a second
            fit, a loader that is made anew or a checkpoint: ``"reset"`` starts the strategy anew, with a warning;
            ``"keep"`` lets it go on. Default: ``"reset"``.

    Raises:
        TypeError: If an argument is not what it must be.
        ValueError: If an argument is out of its range.
        OSError: Before training, if `examples` is no file that can be written.
        MisconfigurationException: Before the first step, or at it, if something does not fit; see `docs/errors.md`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(max_epochs=5, callbacks=[AdaptiveSamplingCallback()])  # doctest: +SKIP
    """

    def __init__(
        self,
        strategy: Strategy | None = None,
        logits_from: str | None = None,
        recompute: bool = False,
        target_key: int | str | None = None,
        per_sample_loss: PerSample | str | None = None,
        gradient_bound: PerSample | Literal["autograd"] | None = None,
        weights: Weighting | Literal["source"] = "source",
        weight_limit: float = 10.0,
        weight_power: float = 0.5,
        forward: Forward | None = None,
        weights_attribute: str = "importance_weights",
        kept: int | str | None = None,
        compare_loss: bool = True,
        other_data: OtherData = "reset",
        examples: bool | str = True,
    ) -> None:
        super().__init__(examples)
        self._fit: Fit | None = None
        self._sampler: Sampler | None = None  # of the last fit, whose state a later one takes over
        self.options = Options(
            logits_from,
            recompute,
            target_key,
            per_sample_loss,
            gradient_bound,
            weights,
            weight_limit,
            weight_power,
            forward,
            weights_attribute,
            kept,
            compare_loss,
            other_data,
        )
        """What it was given, but for the strategy and the record."""
        check_options(self.options)
        self.strategy = ClosenessSampling() if strategy is None else strategy
        self._restored: dict[str, Any] | None = None  # a state that waits for the sampler that it belongs to
        self._waiting: dict[str, Any] | None = None  # what was restored before another stage than a fit
        self._unused: dict[str, Any] | None = None  # what was restored for one that then failed
        self._figures: Figures | None = None  # of the last fit

    @property
    def strategy(self) -> Strategy:
        """The method; another one can be set between fits."""
        return self._strategy

    @strategy.setter
    def strategy(self, strategy: Strategy) -> None:
        if not isinstance(strategy, Strategy):
            raise TypeError(f"`strategy` must be an object such as ClosenessSampling(), got {strategy!r}.")
        if self._fit is not None:
            raise MisconfigurationException(
                "The strategy of an AdaptiveSamplingCallback cannot be replaced amid a fit: set it before, or end the "
                "fit and begin another one."
            )
        check_strategy(self.options, strategy)
        self._strategy = strategy
        self._sampler = self._figures = None  # whose states are those of the strategy before

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work before the data is loaded."""
        if self._restored is self._unused:
            self._restored = None
        self._waiting = self._restored
        if stage == "fit":
            if self._fit is not None:
                refuse_nested_fit(trainer, self._fit.trainer)
            refuse_overfit_batches(trainer)
            claim(self.strategy, self)
            self._begin_record(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the parts to watch in the module, which by now has all its layers, but has not been compiled yet."""
        self._close()
        self._fit = begin(trainer, pl_module, self.strategy, self.options)
        self._figures = self._fit.figures

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the strategy to the loader's sampler, and bring back its state if a fit is resumed."""
        # A fit that goes on at the border of an epoch may make its loader anew, for which it calls no hook: now, then.
        trainer.fit_loop.setup_data()
        self._attach()
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready == 0:  # of this Trainer; others may have been before
            self.strategy.progress.reset()
        check_processes_agree(trainer, *find_loader(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow a loader that was made anew for this epoch; score what the strategy wants scored before it."""
        self._attach()
        self._present.refresh()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check the first batch before it is trained on; hand out the weights."""
        self._present.begin_batch(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note by what the observed gradients will be scaled, and which calls of the module this step has made."""
        self._present.observer.begin_backward(trainer, loss)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take off the hooks that no other backward pass of the step needs."""
        self._present.observer.end_backward()

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Match the batch with its draw, and update the strategy."""
        fit = self._present
        bins, logs = fit.sampler.bins_at_work, logs_now(trainer, batch_idx)
        # In automatic optimization a `training_step` that returns None skips the batch; otherwise it means nothing.
        skipped = not outputs and pl_module.automatic_optimization
        seen = None if skipped else fit.observe(outputs, batch, look=logs or bins.on_host)
        draw = fit.sampler.commit()
        if seen is not None:
            fit.learn(draw, seen)
        fit.end_batch()
        if trainer.is_last_batch:  # of the epoch: a checkpoint that is saved now is one of its end
            fit.sampler.end_epoch()
        if logs and not trainer.barebones:
            for name, value in fit.figures_of(draw).items():  # Lightning looks at what is in the bar in every step
                pl_module.log(f"adaptive/{name}", value, prog_bar=name == "ess" and bins.on_host)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the strategy what was found."""
        if (metrics := validation_metrics(trainer)) is not None:
            self.strategy.validated(metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the sampler, which cannot know how many batches `limit_train_batches` leaves."""
        self._present.sampler.end_epoch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say in a few lines what was drawn."""
        if not trainer.barebones and (said := self._present.summary()) is not None:
            rank_zero_info(said)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        if stage == "fit":
            self._close(trainer)
        else:  # which may have loaded a checkpoint, but not to go on training from it
            self._restored = self._waiting

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._unused = self._restored
        self._close(trainer)

    def receive(self, losses: Any = None, logits: Any = None) -> None:
        """Take what :func:`lightning_as.hand_over` gives, if a batch is being trained on."""
        if self._fit is not None:
            self._fit.hand_over(losses, logits)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state, and with it the strategy's, and that of the figures."""
        if self._restored is not None:
            return self._restored
        if self._sampler is None:
            return {}
        figures = {} if self._figures is None else {"figures": self._figures.state_dict()}
        return saved(self._sampler, self.strategy, figures)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a state until training starts, and with it the loader that it belongs to is there."""
        self._restored = state_dict if "sampler" in state_dict else None

    @property
    def _present(self) -> Fit:
        assert self._fit is not None, "on_fit_start comes first"
        return self._fit

    def _attach(self) -> None:
        state, self._restored = self._restored, None  # which, if it is refused, must not be met again
        self._sampler = self._present.attach(self._sampler, state)

    def _close(self, trainer: Trainer | None = None) -> None:
        """Leave the module as it was before the fit, which is this Trainer's if one is given."""
        if self._fit is None or trainer not in (None, self._fit.trainer):
            return
        trainer = self._fit.trainer
        self._fit.close()
        self._fit = None
        self._write_examples(trainer)
