"""The command line: LightningCLI with adaptive sampling of MNIST as its default, and presets by name."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from lightning_as.cli.arguments import (
    DEFAULT_PRESET,
    DEFAULT_STRATEGY,
    PRESETS,
    check_names,
    check_options,
    check_strategy,
    with_preset_paths,
)
from lightning_as.cli.compare import DESCRIPTION, add_arguments, check_strategies, compare_as_configured
from lightning_as.cli.own_defaults import with_own_defaults
from lightning_as.data.dataloader import as_it_is
from lightning_as.data.image_data import ImageDataModule
from lightning_as.data.mnist import MNISTDataModule
from lightning_as.models.classifier import ConvNetClassifier
from lightning_as.models.evaluation import evaluate
from lightning_as.models.image_classifier import ImageClassifier
from lightning_as.plugin.callback import AdaptiveSamplingCallback
from lightning_as.plugin.irreducible import irreducible_losses
from lightning_as.strategies import BatchSelector
from lightning_as.strategies.cards import document, listing

_DESCRIPTION = """Train with adaptive sampling. The subcommands below are those of LightningCLI; beside them there are
`lightning-as strategies` (the sampling methods), `compare` (whether one pays on your task) and `irreducible-losses`
(what RHOLoss needs), each with a --help of its own. `fit --config NAME` takes a file or a preset, and several of them,
the later over the earlier; a name that is neither lists the presets. `fit --print_config` shows the whole
configuration."""

_CLASSES: dict[str, Any] = {
    "model_class": LightningModule,
    "datamodule_class": LightningDataModule,
    "subclass_mode_model": True,
    "subclass_mode_data": True,
    "seed_everything_default": 0,
}
_DEFAULTS = {"default_config_files": [str(PRESETS / f"{DEFAULT_PRESET}.yaml")]}
_GONE_COMMANDS = {
    "experiment": "`python -m thesis run STUDY`, in a checkout of the repository,",
    "report": "`python -m thesis report`, in a checkout of the repository,",
}


class AdaptiveSamplingCLI(LightningCLI):
    """LightningCLI that answers what is misspelt by the nearest name, and prints what came out of a fit.

    A command line of your own that is one of these has both.
    """

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Look at the names of strategies and options before the parser does."""
        given = sys.argv[1:] if args is None else args
        if isinstance(given, list):
            check_options(given)
            check_strategy(given)
            check_names(given)
        super().parse_arguments(parser, args)

    def instantiate_classes(self) -> None:
        """Make the Trainer, the model and the data."""
        super().instantiate_classes()
        # Lightning 2.4 refuses to log the hyperparameters of two classes, for they differ in the class's name.
        if lightning.__version__.startswith("2.4.") and self.datamodule is not None:
            self.datamodule.save_hyperparameters({}, logger=False)

    def before_fit(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_fit(self) -> None:
        """Print the table: training cost, test accuracy, P, time."""
        seconds = time.perf_counter() - self._start
        if not self.trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            _print_rows(summary(self.trainer, self.model, self.datamodule, seconds))


class _CompareCLI(AdaptiveSamplingCLI):
    """Parses what `fit` parses and what a comparison needs, and makes the parts of each run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_arguments(parser)

    def before_instantiate_classes(self) -> None:
        """Leave out loggers, some of which begin a run of their service when they are made."""
        self.config.trainer.logger = False
        self.config.trainer.profiler = None

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Make none: each run has one of its own."""


def summary(
    trainer: Trainer, model: LightningModule, data: LightningDataModule, seconds: float
) -> list[tuple[str, str]]:
    """Rows of the table after a fit: what was found, as text.

    The training cost and the test accuracy are of a ready classifier on ready images; what else is trained has its own
    figures in the logs.
    """
    rows = [("time", f"{seconds:.1f} s, epochs so far: {trainer.current_epoch}, validation included")]
    if isinstance(data, ImageDataModule) and isinstance(model, ImageClassifier):
        cost = evaluate(model, data.train_evaluation_dataloader()).cost
        accuracy = evaluate(model, data.test_dataloader()).accuracy
        rows.insert(0, ("training cost", f"{cost:.3e}  (mean cross-entropy of all training images, evaluation mode)"))
        rows.insert(1, ("test accuracy", f"{accuracy:.2%}"))
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, AdaptiveSamplingCallback) and not isinstance(callback.strategy, BatchSelector):
            p = callback.strategy.bin_probabilities
            shown = "  ".join(f"{j}: {x:.3f}" for j, x in enumerate(p[:20].tolist()))
            rows.insert(-1, ("distribution P", shown if len(p) <= 20 else f"{shown}  … {len(p)} bins"))
    return rows


def main() -> None:
    """Run ``lightning-as`` with the arguments of the process."""
    commands = {
        "compare": _compare,
        "strategies": _strategies,
        "irreducible-losses": _irreducible_losses,
    }
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in commands:
        commands[command](sys.argv[2:])
        return
    if command in _GONE_COMMANDS:
        sys.exit(f"lightning-as: `{command}` is gone: {_GONE_COMMANDS[command]} took its place.")
    _prepare(sys.argv[1:])
    AdaptiveSamplingCLI(
        **_CLASSES,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={
            "description": _DESCRIPTION,
            **{name: _DEFAULTS for name in ("fit", "validate", "test", "predict")},
        },
    )


def _prepare(arguments: Sequence[str]) -> None:
    """Look at the arguments of a LightningCLI, and put them where it reads them."""
    # So do the processes that it may launch.
    sys.argv[1:] = with_preset_paths(arguments)
    sys.path.insert(0, "")  # for a model or a DataModule of the user's in the working directory, as `python -m` has it
    check_options(sys.argv[1:])  # before what is gone is taken for misspelt
    check_strategy(sys.argv[1:])
    check_names(sys.argv[1:], default=True)
    sys.argv[1:] = with_own_defaults(sys.argv[1:], DEFAULT_STRATEGY)


def _compare(arguments: Sequence[str]) -> None:
    """The command ``lightning-as compare``."""
    check_strategies(arguments)
    _prepare(arguments)
    parser = {"prog": "lightning-as compare", "description": DESCRIPTION, **_DEFAULTS}
    compare_as_configured(_CompareCLI(**_CLASSES, save_config_callback=None, run=False, parser_kwargs=parser))


def _strategies(arguments: Sequence[str]) -> None:
    """The command ``lightning-as strategies``."""
    parser = argparse.ArgumentParser("lightning-as strategies", description="List the sampling methods.")
    parser.add_argument("--cards", action="store_true", help="print their cards, as Markdown")
    print(document().rstrip() if parser.parse_args(arguments).cards else listing())


def _irreducible_losses(arguments: Sequence[str]) -> None:
    """The command ``lightning-as irreducible-losses``."""
    parser = argparse.ArgumentParser(
        "lightning-as irreducible-losses",
        description="Make what the strategy RHOLoss needs, for MNIST: train the thesis's network on each half of the "
        "training images, and score the other half.",
    )
    parser.add_argument("--output", default="irreducible_losses.pt", help="file to write (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of each training (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=256, help="images per batch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: %(default)s)")
    options = parser.parse_args(arguments)

    def make_trainer() -> Trainer:
        return Trainer(max_epochs=options.epochs, logger=False, enable_checkpointing=False, enable_model_summary=False)

    loader = DataLoader(MNISTDataModule().dataset("train"), options.batch_size, collate_fn=as_it_is)
    losses = irreducible_losses(ConvNetClassifier, loader, make_trainer, options.seed)
    torch.save(losses, options.output)
    print(f"{len(losses)} losses, {float(losses.mean()):.3e} on average, are in {options.output}.")


@rank_zero_only
def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
