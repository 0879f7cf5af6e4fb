"""Which parameters the weights that scale the gradient of the logits do not reach: of a head after or beside them."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_as.plugin.candidates import in_words
from lightning_as.plugin.logits_hook import ScaleGradient


def warn_of_unreached(module: LightningModule, name: str, loss: Tensor) -> None:
    """Warn if parameters have a gradient of the loss that does not pass through the weighted output of a submodule.

    Args:
        module: The module that is trained.
        name: The submodule's name.
        loss: What a backward pass is about to begin from.
    """
    if unreached := unreached_parameters(module, loss):
        rank_zero_warn(
            f"`weights` scale the gradient of the output of {name!r}, but parameters have one that does not come "
            f"through it: {in_words(unreached)}. For a penalty on parameters, or a loss of other samples than were "
            "drawn, that is right; a layer after it, or beside it, is trained without the weights: name the last "
            "submodule with parameters to train as `logits_from`, or have the module multiply its losses by the "
            "weights itself."
        )


def unreached_parameters(module: LightningModule, loss: Tensor) -> list[str]:
    """Names of the parameters to which a gradient comes from the loss that no weight has scaled on its way."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    waiting, seen, unreached = [loss.grad_fn], set[Any](), set[str]()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen or getattr(node, "_forward_cls", None) is ScaleGradient:
            continue
        seen.add(node)
        if (name := names.get(id(getattr(node, "variable", None)))) is not None:
            unreached.add(name)
        waiting += [following for following, _ in node.next_functions]
    return [name for name in names.values() if name in unreached]
