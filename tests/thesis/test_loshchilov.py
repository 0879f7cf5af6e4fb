from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_as.cli import main
from lightning_as.data.mnist import load_mnist
from thesis.grid import cells
from thesis.loshchilov import LoshchilovMNIST, LoshchilovNet
from thesis.results import ROW
from thesis.training import train

CONFIG = Path(__file__).parents[2] / "thesis" / "configs" / "loshchilov.yaml"


def test_pixels_are_in_0_to_1_and_ten_thousand_images_are_left_out(monkeypatch: Any):
    monkeypatch.setattr("thesis.loshchilov._TRAINED", 150)
    train_set, test_set = (LoshchilovMNIST().load(part) for part in ("train", "test"))
    assert (len(train_set), len(test_set)) == (150, 100)
    pixels = train_set.images * 255
    assert (float(pixels.min().abs()) < 1e-3, round(float(pixels.max()))) == (True, 255)
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-3, rtol=0)
    assert torch.equal(train_set.labels, load_mnist("train").labels[:150])


def test_the_network_is_theirs():
    net = LoshchilovNet()
    kinds = [type(layer) for layer in net.network]
    assert kinds[-5:] == [nn.Flatten, nn.Dropout, nn.Linear, nn.ReLU, nn.Linear]
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    (norm, *_) = [layer for layer in net.network if isinstance(layer, nn.BatchNorm2d)]
    assert (norm.eps, norm.momentum) == (1e-4, 0.15)
    bound = (6 / (512 + 256)) ** 0.5  # Glorot's
    weight = net.network[-3].weight.detach()
    assert 0.95 * bound < float(weight.abs().max()) <= bound
    (group,) = net.configure_optimizers().param_groups
    assert (group["lr"], group["rho"], group["eps"]) == (1.0, 0.95, 1e-6)
    (group,) = LoshchilovNet("adam").configure_optimizers().param_groups
    assert (group["lr"], group["betas"]) == (1e-3, (0.9, 0.999))


def test_the_study_and_the_preset_train_it(tmp_path: Path, monkeypatch: Any):
    made = []
    monkeypatch.setattr(
        "thesis.training.LoshchilovNet", lambda optimizer: made.append(LoshchilovNet(optimizer)) or made[0]
    )
    cell = cells("loshchilov", 1)[0]._replace(batch_size=20)
    rows = train(cell, 1, tmp_path / "it.ckpt", "cpu", lambda rows: None)
    assert [list(row) for row in rows] == [list(ROW)] * 2
    assert len(made) == 1
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["", "fit", f"--config={CONFIG}", "--trainer.max_epochs=1", "--data.batch_size=20"])
    main()
