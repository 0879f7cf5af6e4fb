"""What the command ``lightning-as compare`` has beside the options of ``fit``, and what it does with them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_as.comparison.compare import compare
from lightning_as.strategies import Strategy
from lightning_as.strategies.cards import cards

DESCRIPTION = """Compare strategies with uniform sampling on your model and data, over several seeds: at equal steps,
and in equal time. All options of `lightning-as fit` are options here, and mean the same. Runs that are done are kept in
the folder `--out`: the same command goes on with those that are missing."""


def add_arguments(parser: LightningArgumentParser) -> None:
    """Add the comparison's own options, and those that a configuration saved by `fit` has."""
    parser.add_argument(
        "--strategies",
        type=Strategy,
        nargs="+",
        help="Names of strategies; of one with options `{class_path: NAME, init_args: {OPTION: VALUE}}`. Default: the "
        "strategy of the callback.",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="A run of each rival for each of them.")
    parser.add_argument(
        "--monitor", type=str | None, default=None, help="What decides, of what validation logs. Default: by its name."
    )
    parser.add_argument(
        "--mode", type=Literal["max", "min"] | None, default=None, help="Whether more of it is better, or less."
    )
    parser.add_argument("--out", type=str, default="compare", help="Folder of the results.")
    parser.add_method_arguments(Trainer, "fit", skip=set(LightningCLI.subcommands()["fit"]))


def check_strategies(arguments: Sequence[str]) -> None:
    """Look at the names of strategies before jsonargparse does, whose message does not tell the names.

    Raises:
        SystemExit: If one after ``--strategies`` is none, with the nearest name.
    """
    known = [card.name for card in cards()]
    for at, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag != "--strategies":
            continue
        rest = takewhile(lambda word: not word.startswith("--"), arguments[at + 1 :])
        for name in [value] if value else rest:
            if name.isidentifier() and name not in known:
                nearest = get_close_matches(name, known, 1)
                hint = f"did you mean `{nearest[0]}`? " if nearest else ""
                sys.exit(
                    f"lightning-as: `--strategies {name}` is no strategy: {hint}The strategies: {', '.join(known)}."
                )


def compare_as_configured(cli: LightningCLI) -> None:
    """Compare, and print the table and the verdict.

    Args:
        cli: Has parsed the options, and makes the parts of a run by `instantiate_classes`, as often as it is asked.

    Raises:
        SystemExit: If a checkpoint is given; or the comparison is broken off, with how to go on.
    """
    config: Any = cli.config
    if config.get("ckpt_path") is not None:
        sys.exit("lightning-as: `compare` begins with initial weights: leave `ckpt_path` out.")

    def module() -> LightningModule:
        cli.instantiate_classes()
        return cli.model

    made: Any = cli.config_init
    told = (made.strategies, config.seeds, config.monitor, config.mode, config.out)
    try:
        found = compare(module, lambda: cli.datamodule, dict(made.trainer), *told)
    except KeyboardInterrupt as error:
        sys.exit(f"\nlightning-as: {error or 'Broken off.'}")
    lines = (found.table(), *found.notes, f"The report is in {config.out}.", found.verdict)
    print("", *lines, sep="\n\n")
