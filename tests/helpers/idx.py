"""Files of bytes in the format of MNIST."""

import struct
from pathlib import Path

import torch
from torch import Tensor


def write_mnist(folder: Path, name: str, images: Tensor, labels: Tensor) -> None:
    """Write the two files of a part, "train" or "t10k"."""
    write_idx(folder, f"{name}-images-idx3-ubyte", images)
    write_idx(folder, f"{name}-labels-idx1-ubyte", labels)


def write_idx(folder: Path, name: str, values: Tensor) -> None:
    """Write numbers from 0 to 255: two zeros, the type, the number of dimensions, the dimensions, the bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    (folder / name).write_bytes(header + values.to(torch.uint8).numpy().tobytes())
