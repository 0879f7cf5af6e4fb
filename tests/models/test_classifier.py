from typing import Any

import pytest
import torch

from lightning_as import ConvNetClassifier


def test_the_network_is_table_1():
    module = ConvNetClassifier()
    numbers = (26 * 32, 2 * 32, 801 * 32, 2 * 32, 513 * 256, 257 * 10)  # weights and biases of each layer
    assert sum(parameter.numel() for parameter in module.network.parameters()) == sum(numbers)
    kinds, sizes, images = [], [], torch.rand(2, 1, 28, 28)
    for layer in module.network:
        images = layer(images)
        kinds.append(type(layer).__name__)
        sizes.append(tuple(images.shape[1:]))
    assert " ".join(kinds) == "Conv2d BatchNorm2d ReLU MaxPool2d " * 2 + "Flatten Linear ReLU Dropout Linear"
    images = [(32, side, side) for side in (24, 12, 8, 4)]
    assert list(dict.fromkeys(sizes)) == [*images, (512,), (256,), (10,)]
    assert module.network[-2].p == 0.5
    torch.testing.assert_close(module.eval().predict_step(torch.rand(3, 1, 28, 28), 0).sum(1), torch.ones(3))


def test_the_optimizers_of_the_thesis():
    adadelta, adam = (ConvNetClassifier(optimizer=name).configure_optimizers() for name in ("adadelta", "adam"))
    assert (type(adadelta), type(adam)) == (torch.optim.Adadelta, torch.optim.Adam)
    assert (adadelta.defaults["lr"], adadelta.defaults["rho"]) == (1.0, 0.9)
    assert (adam.defaults["lr"], adam.defaults["betas"]) == (1e-3, (0.9, 0.999))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "`num_classes` must be at least 2, got 1"),
        ({"optimizer": "sgd"}, "`optimizer` must be one of adadelta, adam; got 'sgd'"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ConvNetClassifier(**options)
