from typing import Any

import numpy as np
import pytest
import torch

from lightning_as.plugin.returned import as_logits, as_losses
from tests.helpers.tiny import normal, refused

B, C = 6, 4
LOSSES, LOGITS = normal(B), normal(B, C)


@pytest.mark.parametrize(
    "form", [lambda x: x.tolist(), lambda x: x.numpy(), list, lambda x: x.requires_grad_(), torch.clone]
)
def test_what_is_taken_as_it_is_meant(form: Any):
    for value, take in ((LOSSES, as_losses), (LOSSES[:, None], as_losses), (LOGITS, as_logits)):
        taken = take(form(value.clone()), B)
        assert not taken.requires_grad
        torch.testing.assert_close(taken.float(), LOGITS if take is as_logits else LOSSES)
    assert as_losses((LOSSES > 0).long(), B).tolist() == (LOSSES > 0).long().tolist()
    assert as_losses(LOSSES.bfloat16(), B).dtype == as_logits(LOGITS.bfloat16(), B).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (None, "None"),
        ("mean", "a str"),
        ((1.0,) * B, "a tuple of 6"),
        ({"box": 1.0}, "a dict of 1"),
        (LOSSES.to(torch.complex64), "a tensor of torch.complex64"),
        (LOSSES > 0, "a tensor of torch.bool"),
        (np.array(["a"] * B), "an array of <U1"),
        ([[1.0], [1.0, 2.0]], "a list of 2"),
    ],
)
def test_what_is_refused_by_name(value: Any, got: str):
    for name, take in (("losses", as_losses), ("logits", as_logits)):
        with pytest.raises(TypeError, match=f"`{name}` that `training_step` returned must be .*, got {got}: return"):
            take(value, B)
    with pytest.raises(TypeError, match=r"a tensor of torch.int64: return what goes into the loss, and not classes"):
        as_logits(LOGITS.argmax(1), B)
    with refused(r"The losses must be one for each of the 6 instances drawn, got the shape \(5,\)"):
        as_losses(LOSSES[1:], B)
