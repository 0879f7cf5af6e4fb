"""What a reader sees of an example: the picture or the text in a sample of the data set."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_as.data.dataloader import as_it_is

SECONDS = 10.0
"""Time that a report spends on reading samples; what is not read by then is shown without."""
_LETTERS = 300  # of a text
_SMALL, _LARGE = 64, 160  # pixels of a side: up to which a picture is kept as it is; of the larger ones
_LEAST = 8  # pixels of a side, of what is taken for a picture
_CHANNELS = (1, 3, 4)
_INTEGERS = (np.uint8, np.uint16, np.int16)  # of pixels; longer ones are of tokens
_PARTS = 100  # of a sample, that are looked at
_WRAPPED = 10  # data sets in one another, that are asked for names


class View(NamedTuple):
    """What there is to be seen of a sample."""

    picture: str | None = None
    """A data URL."""
    text: str | None = None
    error: str | None = None
    """Why it could not be read."""


def view_of(sample: Any) -> View:
    """The first picture in a sample, or else its texts.

    Args:
        sample: A picture or a text; or a sequence, mapping or object that has some, or in which there is one that has.
    """
    levels = [sample, *_parts(sample).values()]  # what is in the sample itself comes first
    for level in levels:
        for part in _parts(level).values():
            if (picture := _picture(part)) is not None:
                return View(picture=_encoded(picture))
    return next((View(text=text) for level in levels if (text := _text(level))), View())


def read(loader: DataLoader[Any], indices: Sequence[int], seconds: float = SECONDS) -> dict[int, View]:
    """Read some samples of a loader's data set, as the loader would: in a worker, if it has workers.

    A data set may open its files where it is first read from, and must then be read from where the loader does that. No
    random state is moved.

    Args:
        loader: The train loader.
        indices: Which, without repetition.
        seconds: Time after which no more are read. Default: :data:`SECONDS`.

    Returns:
        What was read, by its index.
    """
    if not indices:
        return {}
    found: dict[int, View] = {}
    end = time.monotonic() + seconds
    try:
        with isolate_rng():
            for index, view in zip(indices, _reader(loader, indices, seconds), strict=True):
                found[index] = view
                if time.monotonic() > end:
                    break
    except Exception as error:  # of a worker, which may die or hang; what the data set raises is in the views
        found[indices[len(found)]] = View(error=_said(error))
    return found


def class_names(dataset: Any) -> Mapping[int, str]:
    """The names of the classes, where a data set or the one that it wraps keeps them, as torchvision's do.

    Not if one of them has a `target_transform`, after which the labels are others than those that it names.
    """
    found: Mapping[int, str] = {}
    try:
        for _ in range(_WRAPPED):
            if getattr(dataset, "target_transform", None) is not None:
                return {}
            names = getattr(dataset, "classes", None)
            if not found and isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
                found = dict(enumerate(names))
            dataset = getattr(dataset, "dataset", None)
    except Exception:  # of a user's property: numbers are enough of a name
        return {}
    return found


class _Views(Dataset[View]):
    """What there is to be seen of each sample of a data set."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> View:
        try:
            return view_of(self._dataset[index])
        except Exception as error:  # whatever a user's data set does, the training goes on
            return View(error=_said(error))


def _reader(loader: DataLoader[Any], indices: Sequence[int], seconds: float) -> Iterator[View]:
    workers = min(loader.num_workers, 1)
    return iter(
        DataLoader(
            _Views(loader.dataset),
            sampler=indices,
            batch_size=None,
            collate_fn=as_it_is,
            num_workers=workers,
            timeout=seconds if workers else 0,
            worker_init_fn=loader.worker_init_fn,  # pyright: ignore[reportArgumentType]
            multiprocessing_context=loader.multiprocessing_context if workers else None,
            generator=torch.Generator(),  # or else torch would move the global one
        )
    )


def _parts(sample: Any) -> dict[str, Any]:
    """What may be a picture or a text, by its name."""
    if isinstance(sample, Mapping):
        return {str(name): part for name, part in islice(sample.items(), _PARTS)}
    if isinstance(sample, (list, tuple)):
        return {str(at): part for at, part in enumerate(islice(sample, _PARTS))}
    if isinstance(sample, (str, Tensor, np.ndarray)) or _is_pil(sample):
        return {"": sample}
    return dict(getattr(sample, "__dict__", {}))


def _text(sample: Any) -> str | None:
    """The longest text in a sample; of several in a mapping all, by their names."""
    texts = {name: text for name, text in _parts(sample).items() if isinstance(text, str) and text.strip()}
    if isinstance(sample, Mapping) and len(texts) > 1:
        return _shortened("\n".join(f"{name}: {text}" for name, text in texts.items()))
    return _shortened(max(texts.values(), key=len)) if texts else None


def _is_pil(part: Any) -> bool:
    return callable(getattr(part, "convert", None)) and callable(getattr(part, "getbands", None))


def _picture(part: Any) -> Any | None:
    """A PIL image of a picture in any form; None of what is none."""
    from PIL import Image  # which matplotlib brings

    if _is_pil(part):
        if part.mode[0] in "IF":  # 16 or 32 bits a pixel, of which `convert` would cut off what is above 255
            return Image.fromarray(_bytes(np.asarray(part)))
        return part.convert("L" if part.mode in ("1", "L") else "RGB")
    if isinstance(part, Tensor):
        part = _array(part)
    if not isinstance(part, np.ndarray) or (part.dtype.kind not in "fb" and part.dtype not in _INTEGERS):
        return None
    pixels = _channels_last(part)
    if pixels is None or min(pixels.shape[:2]) < _LEAST:
        return None
    grey = pixels.shape[2] == 1
    return Image.fromarray(_bytes(pixels[..., 0] if grey else pixels[..., :3]))


def _array(tensor: Tensor) -> np.ndarray | None:
    """A tensor's numbers; None of one that has no array of them: sparse, nested, quantized, or without data."""
    tensor = tensor.detach()
    try:
        return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    except (RuntimeError, TypeError):
        return None


def _channels_last(pixels: np.ndarray) -> np.ndarray | None:
    """Pixels (H, W, C) of (H, W), (C, H, W) or (H, W, C)."""
    if pixels.ndim == 2:
        return pixels[..., None]
    if pixels.ndim != 3:
        return None
    if pixels.shape[0] in _CHANNELS:
        return pixels.transpose(1, 2, 0)
    return pixels if pixels.shape[2] in _CHANNELS else None


def _bytes(pixels: np.ndarray) -> np.ndarray:
    """Bytes as they are, fractions from 0 to 1 by 255, and other numbers from their least to their largest."""
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    whole = pixels.dtype.kind in "iu"
    pixels = np.nan_to_num(pixels.astype(np.float64), posinf=0.0, neginf=0.0)
    least, largest = pixels.min(), pixels.max()
    if whole or least < 0 or largest > 1:
        pixels = (pixels - least) / max(largest - least, 1e-12)
    return np.ascontiguousarray((pixels * 255).round().astype(np.uint8))


def _encoded(picture: Any) -> str:
    """A data URL of a picture: of a small one exactly, of a large one at the size of a stamp."""
    small = max(picture.size) <= _SMALL
    if not small:
        picture = picture.copy()
        picture.thumbnail((_LARGE, _LARGE))
    file = io.BytesIO()
    picture.save(file, "PNG" if small else "JPEG", **({"optimize": True} if small else {"quality": 85}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1].rstrip() + "…"


def _said(error: Exception) -> str:
    message = str(error).strip().splitlines()
    return _shortened(f"{type(error).__name__}: {message[0]}" if message else type(error).__name__)
