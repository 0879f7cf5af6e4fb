"""The command line: LightningCLI with the thesis's set-up as its defaults, and presets by name."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import lightning
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from lightning_as.data.dataloader import as_it_is
from lightning_as.data.mnist import MNISTDataModule
from lightning_as.models.classifier import ConvNetClassifier
from lightning_as.models.evaluation import evaluate
from lightning_as.plugin.callback import AdaptiveSamplingCallback
from lightning_as.plugin.irreducible import irreducible_losses
from lightning_as.strategies import AdaptiveSampling
from lightning_as.strategies.cards import cards, document, listing

PRESETS = Path(__file__).parent / "configs"
DEFAULT_PRESET = "adadelta_256"


_DESCRIPTION = """Train with adaptive sampling. The subcommands below are those of LightningCLI; beside them there are
`lightning-as strategies` (the sampling methods), `experiment` and `report` (the thesis's experiments) and
`irreducible-losses` (what RHOLoss needs), each with a --help of its own. `fit --config NAME` takes a file or a preset;
a name that is neither lists them."""


class AdaptiveSamplingCLI(LightningCLI):
    """LightningCLI that prints what came out of a fit."""

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


def summary(
    trainer: Trainer, model: LightningModule, data: LightningDataModule, seconds: float
) -> list[tuple[str, str]]:
    """Rows of the table after a fit: what was found, as text.

    The training cost and the test accuracy are of :class:`ConvNetClassifier` on :class:`MNISTDataModule`; what else is
    trained has its own figures in the logs.
    """
    rows = [("time", f"{seconds:.1f} s, epochs so far: {trainer.current_epoch}, validation included")]
    if isinstance(data, MNISTDataModule) and isinstance(model, ConvNetClassifier):
        cost = evaluate(model, data.train_evaluation_dataloader()).cost
        accuracy = evaluate(model, data.test_dataloader()).accuracy
        rows.insert(0, ("training cost", f"{cost:.3e}  (mean cross-entropy of all training images, evaluation mode)"))
        rows.insert(1, ("test accuracy", f"{accuracy:.2%}"))
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, AdaptiveSamplingCallback) and isinstance(callback.strategy, AdaptiveSampling):
            p = callback.strategy.bin_probabilities
            shown = "  ".join(f"{j}: {x:.3f}" for j, x in enumerate(p[:20].tolist()))
            rows.insert(-1, ("distribution P", shown if len(p) <= 20 else f"{shown}  … {len(p)} bins"))
    return rows


def main() -> None:
    """Run ``lightning-as`` with the arguments of the process."""
    commands = {
        "strategies": _strategies,
        "irreducible-losses": _irreducible_losses,
        "experiment": _experiment,
        "report": _report,
    }
    if sys.argv[1:2] and sys.argv[1] in commands:
        commands[sys.argv[1]](sys.argv[2:])
        return
    # LightningCLI reads them there, as do the processes that it may launch.
    sys.argv[1:] = with_preset_paths(sys.argv[1:])
    check_strategy(sys.argv[1:])
    sys.path.insert(0, "")  # for a model or a DataModule of the user's in the working directory, as `python -m` has it
    default = str(PRESETS / f"{DEFAULT_PRESET}.yaml")
    AdaptiveSamplingCLI(
        model_class=LightningModule,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={
            "description": _DESCRIPTION,
            **{name: {"default_config_files": [default]} for name in ("fit", "validate", "test", "predict")},
        },
    )


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


def _experiment(arguments: Sequence[str]) -> None:
    """The command ``lightning-as experiment``."""
    try:
        from thesis import command  # late: with packages that no other command needs
    except ModuleNotFoundError as error:
        sys.exit(f'lightning-as experiment: {error.name} is missing: in a checkout, pip install ".[experiments]"')
    command.run(arguments)


def _report(arguments: Sequence[str]) -> None:
    """The command ``lightning-as report``."""
    from thesis import report_command  # late: nothing else needs it

    report_command.main(arguments)


def presets() -> list[str]:
    """Names of the presets in the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def with_preset_paths(arguments: Sequence[str]) -> list[str]:
    """Replace the names of presets after ``--config`` or ``-c`` by their paths.

    Raises:
        SystemExit: If a name is neither a preset nor a file.
    """
    result = list(arguments)
    for at, argument in enumerate(result):
        if argument in ("--config", "-c") and at + 1 < len(result):
            result[at + 1] = _preset_path(result[at + 1])
        elif argument.startswith("--config="):
            result[at] = "--config=" + _preset_path(argument.removeprefix("--config="))
    return result


def check_strategy(arguments: Sequence[str]) -> None:
    """Look at the name of a strategy before jsonargparse does, whose message does not tell the names.

    Raises:
        SystemExit: If a name after ``--trainer.callbacks.strategy`` is neither one of a strategy nor a path to a class.
    """
    flag, known = "--trainer.callbacks.strategy", [card.name for card in cards()]
    given = [value for option, value in pairwise(arguments) if option == flag]
    given += [argument.removeprefix(f"{flag}=") for argument in arguments if argument.startswith(f"{flag}=")]
    for name in given:
        if name.isidentifier() and name not in (*known, "null"):
            sys.exit(f"lightning-as: `{flag}={name}` is no strategy. The strategies: {', '.join(known)}.")


def _preset_path(name: str) -> str:
    if Path(name).is_file() or ":" in name:  # a file, or a YAML text
        return name
    if name not in presets():
        sys.exit(
            f"lightning-as: `--config {name}` is neither a file nor a preset. The presets: {', '.join(presets())}."
        )
    return str(PRESETS / f"{name}.yaml")


@rank_zero_only
def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
