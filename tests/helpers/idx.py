"""Files of bytes in the format of MNIST."""

import struct
from pathlib import Path

import torch
from torch import Tensor


def write_mnist(folder: Path, name: str, images: Tensor, labels: Tensor) -> None:
    """Write the two files of a part, "train" or "t10k": zeros, type, number of dimensions, dimensions, bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
        header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
        (folder / f"{name}-{kind}-ubyte").write_bytes(header + values.to(torch.uint8).numpy().tobytes())
