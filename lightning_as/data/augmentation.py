"""Random changes of a whole batch of images at once, on the device where it is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_as.core.draw import to_device

PADDING = 4  # pixels


def flip_and_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned left to right or not, and cut out anywhere from a frame of zeros, 4 pixels wide.

    Both are drawn for each image by itself, all choices alike. Of normalised images zero is the mean colour.

    Args:
        images: (B, C, H, W).
        generator: For the draws, on the CPU.

    Returns:
        New images, (B, C, H, W), on the same device.

    Source: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2016), section 4.2.
    """
    size, channels, height, width = images.shape
    device, shifts = images.device, 2 * PADDING + 1
    drawn = [torch.randint(most, (size, 1), generator=generator, device="cpu") for most in (shifts, shifts, 2)]
    top, left, flip = to_device(torch.stack(drawn), device)
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    columns = left + torch.where(flip == 1, columns.flip(0), columns)
    # Of all ways to index, one gather of flat pixels is the fastest on a CPU.
    pixels = (rows.unsqueeze(2) * (width + 2 * PADDING) + columns.unsqueeze(1)).view(size, 1, -1)
    framed = pad(images, [PADDING] * 4).flatten(2)
    return framed.gather(2, pixels.expand(-1, channels, -1)).view(images.shape)
