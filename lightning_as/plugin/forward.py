"""Forward passes beside the training, of batches that are treated as the training loop treats its own.

They are in evaluation mode and without gradients; training goes on as if they had not been: neither batch-norm
statistics nor any global random state move.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lightning_as.plugin.candidates import find_submodule
from lightning_as.plugin.hooks import is_compiled
from lightning_as.plugin.logits_hook import logits_in

Forward = Callable[..., Any]
"""A function of a batch, or of the module and a batch, to the logits (B, …)."""
TARGET_NAMES = ("targets", "target", "labels", "label", "y")
"""Keys under which a batch that is a mapping may have its targets."""


class ForwardPass:
    """What Lightning's loop does with a batch before `training_step`, and the module's logits of such a batch.

    Args:
        trainer: The Trainer.
        module: The module, called on the inputs if it defines `forward`.
        logits_from: The submodule that is called on the inputs otherwise. Default: none.
        forward: What gives the logits of a batch instead. Default: none.
        target_key: What holds the targets in a batch, which are no inputs. Default: as in the callback.

    Raises:
        MisconfigurationException: If there is no such submodule.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        logits_from: str | None = None,
        forward: Forward | None = None,
        target_key: str | int | None = None,
    ) -> None:
        if logits_from is not None:
            find_submodule(module, logits_from)
        self._trainer = trainer
        self._module = module
        self._logits_from = logits_from
        self._forward = forward
        self._target_key = target_key

    def ready(self, batch: Any) -> Any:
        """A batch of a loader as `training_step` gets it: converted, on the device, and through all batch hooks.

        The module is in evaluation mode meanwhile, by which a hook can tell that nothing is trained on the batch, and
        leave out what is random.
        """
        batch = self._trainer.precision_plugin.convert_input(batch)
        hook = "on_before_batch_transfer"
        owner = next((owner for owner in self._owners() if is_overridden(hook, owner)), self._module)
        with _evaluating(self._module):
            # The strategy calls the hooks `transfer_batch_to_device` and `on_after_batch_transfer` by itself.
            return self._trainer.strategy.batch_to_device(owner.on_before_batch_transfer(batch, 0))

    def logits(self, batch: Any) -> Tensor:
        """The logits of a batch that is :meth:`ready`, in the Trainer's precision; see :func:`recompute_logits`."""
        with self._trainer.precision_plugin.val_step_context():
            return recompute_logits(self._module, batch, self._logits_from, self._forward, self._target_key)

    def inputs(self, batch: Any) -> Tensor | None:
        """The inputs of a batch if they are one tensor: the first of a tuple, or all of a mapping but the targets."""
        if isinstance(batch, Mapping):
            found = [value for name, value in batch.items() if name not in _targets(self._target_key)]
            found = found if len(found) == 1 else []
        else:
            found = [_first(batch, self._target_key)] if isinstance(batch, (tuple, list)) and batch else []
        return found[0] if found and isinstance(found[0], Tensor) else None

    def copy(self, batch: Any) -> Any:
        """The batch of a loader for the user's hooks and `forward` to change, where they could: it is used again."""
        root = self._trainer.strategy.root_device
        if root.type == "cpu" or _lies_on(batch, root):  # where the transfer copies nothing
            return copy.deepcopy(batch)
        hooks = ("on_before_batch_transfer", "on_after_batch_transfer")
        changed = any(is_overridden(hook, owner) for hook in hooks for owner in self._owners())
        return copy.deepcopy(batch) if changed else batch

    def _owners(self) -> list[Any]:
        """Who may have hooks. The first that has one is heard, as in Lightning."""
        return [getattr(self._trainer, "datamodule", None), self._module]


def recompute_logits(
    module: LightningModule,
    batch: Any,
    name: str | None = None,
    forward: Forward | None = None,
    target_key: str | int | None = None,
) -> Tensor:
    """The logits of a batch by a forward pass of its own, in evaluation mode.

    Training goes on as if it had not been: no gradient, no batch-norm statistics, and the global random state and the
    training flags are what they were.

    Args:
        module: The LightningModule; called on the inputs if it defines `forward`: the first of a pair, those entries of
            a mapping that are arguments of it, without the targets where it can do without, or an object as it is.
        batch: The batch.
        name: The submodule that is called on the inputs otherwise. If the module itself is called, what this submodule
            gives in it. Default: none.
        forward: What is called on the batch, or on the module and the batch, instead of all that. Default: none.
        target_key: What holds the targets. Default: the second of a pair, or what has a usual name.

    Raises:
        MisconfigurationException: If it is not clear what to call, or that fails or does not give a tensor.
    """
    devices = [module.device] if module.device.type == "cuda" else []
    with _evaluating(module), torch.random.fork_rng(devices), torch.no_grad():
        if forward is not None:
            return _logits_of(forward(module, batch) if _takes_two(forward) else forward(batch), "`forward`")
        return _by_default(module, batch, name, target_key)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; its training flags are what they were afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _by_default(module: LightningModule, batch: Any, name: str | None, target_key: str | int | None) -> Tensor:
    """The logits of a batch that a module, or the submodule, gives if it is called on the inputs."""
    called, what, likely = module, f"`forward` of {type(module).__name__}", "module"
    if type(module).forward is LightningModule.forward:
        likely = f"module.{next(iter(dict(module.named_children())), 'net')}"
        if name is None:
            what = f"`forward` of the module, which {type(module).__name__} does not define"
            raise _unclear(what, batch, likely)
        called, what = module.get_submodule(name), f"`{name}`"
    inputs, named = _inputs_of(called, what, batch, target_key, likely)
    seen: list[Any] = []
    handle = None
    if name is not None and called is module and not is_compiled(module):
        handle = module.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2]))
    try:
        output = called(*inputs, **named)
    except (MisconfigurationException, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise _unclear(f"{what}, which failed: {type(error).__name__}: {error}", batch, likely) from error
    finally:
        if handle is not None:
            handle.remove()
    # What is trained by and what is scored by are the same then, whatever `forward` makes of it.
    return _logits_of(seen[0] if len(seen) == 1 else output, what, batch, likely)


def _inputs_of(
    called: nn.Module, what: str, batch: Any, target_key: str | int | None, likely: str
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments for a call on a batch."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return [_first(batch, target_key)], {}
    if isinstance(batch, (tuple, list)):
        what = f"{what} on the inputs of a pair (inputs, targets), or of a mapping with its arguments"
        raise _unclear(what, batch, likely)
    if not isinstance(batch, Mapping):  # an object, such as a batch of graphs
        return [batch], {}
    parameters = inspect.signature(called.forward).parameters
    needed = {name for name, one in parameters.items() if one.default is one.empty and one.kind not in _OPEN}
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    targets = _targets(target_key)
    named = {
        name: value
        for name, value in batch.items()
        if name in needed or ((name in parameters or takes_all) and name not in targets)
    }
    if not named or not needed <= set(named):
        what = f"{what} on those entries of a mapping that are its arguments, {sorted(parameters)}"
        raise _unclear(what, batch, likely)
    return [], named


def _first(batch: Any, target_key: str | int | None) -> Any:
    """The inputs of a pair."""
    return batch[1 if len(batch) == 2 and target_key in (0, -2) else 0]


def _targets(target_key: str | int | None) -> tuple[str | int, ...]:
    """What the targets may be called in a mapping."""
    return TARGET_NAMES if target_key is None else (target_key,)


_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _takes_two(forward: Forward) -> bool:
    """Whether a function needs two arguments: the module and the batch."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # of a builtin, which does not tell
        return False
    return sum(one.default is one.empty and one.kind not in _OPEN for one in parameters) == 2


def _logits_of(output: Any, what: str, batch: Any = None, likely: str = "module") -> Tensor:
    logits = logits_in(output)
    if logits is not None:
        return logits
    gave = f"{what} to give the logits, but it gave {describe(output)}"
    if what == "`forward`":
        raise MisconfigurationException(f"A forward pass of its own needs {gave}: return a tensor (B, …).")
    raise _unclear(gave, batch, likely, "needs")


def _unclear(what: str, batch: Any, likely: str, does: str = "calls") -> MisconfigurationException:
    """The error, which shows a call of what is `likely` to give the logits."""
    if isinstance(batch, Mapping):
        inputs = f"batch[{next(iter(batch), 'inputs')!r}]"
    elif isinstance(batch, (tuple, list)):
        inputs = "batch[0]" if len(batch) == 2 else "batch[0], batch[1]"
    else:
        inputs = "batch.x"
    return MisconfigurationException(
        f"A forward pass of its own {does} {what}; the batch is {describe(batch)}: say what gives its logits, "
        f"`forward=lambda batch: …`, such as `lambda module, batch: {likely}({inputs})`; or use a strategy that scores "
        "no instances, and no `recompute`."
    )


def describe(batch: Any) -> str:
    """A batch in a few words, for messages."""
    if isinstance(batch, Mapping):
        return f"a mapping with {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"


def _lies_on(batch: Any, device: torch.device) -> bool:
    """Whether a tensor of a batch, however nested, is on a device."""
    if isinstance(batch, Tensor):
        return batch.device == device
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ()
    return any(_lies_on(part, device) for part in parts)
