import base64
import io
import random
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

from lightning_as.report.samples import View, class_names, read, view_of

GREY = (np.arange(100) * 2).reshape(10, 10).astype(np.uint8)
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)


def pixels(view: View) -> np.ndarray:
    assert view.picture is not None
    kind, _, data = view.picture.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (GREY, GREY),
        (torch.from_numpy(GREY)[None], GREY),
        (GREY[..., None], GREY),
        (COLOUR, COLOUR),
        (torch.from_numpy(COLOUR).permute(2, 0, 1), COLOUR),
        (Image.fromarray(COLOUR), COLOUR),
        (Image.fromarray(GREY), GREY),
        ((torch.from_numpy(GREY / 255.0).float(), 3), GREY),
        ({"label": 3, "image": Image.fromarray(COLOUR)}, COLOUR),
        ([3, "a name", np.dstack([COLOUR, GREY])], COLOUR),  # an alpha channel is left out
        (SimpleNamespace(y=1, x=torch.from_numpy(GREY)), GREY),
        (torch.from_numpy(GREY > 90), 255 * (GREY > 90)),
        (torch.from_numpy(GREY / 255.0).to(torch.bfloat16), GREY.astype(float)),
        ((3, {"image": COLOUR}), COLOUR),
        (([Image.fromarray(GREY), COLOUR], 3), GREY),
        (({"image": COLOUR}, "a name"), COLOUR),
        ((torch.eye(9).to_sparse(), GREY), GREY),  # of which the first is none
        (Image.fromarray(GREY / np.float32(255)), GREY),
    ],
)
def test_a_picture_is_found_in_any_form(sample: Any, expected: np.ndarray):
    np.testing.assert_allclose(pixels(view_of(sample)).astype(float), expected, atol=1)


def test_normalised_pixels_are_shown_in_their_own_range():
    shown = pixels(view_of((torch.from_numpy(GREY).float()[None] / 50 - 2, 1))).astype(float)
    np.testing.assert_allclose(shown, GREY / GREY.max() * 255, atol=1)
    assert pixels(view_of(torch.full((1, 9, 9), torch.nan))).max() == 0
    assert pixels(view_of(torch.full((1, 9, 9), -3.0))).max() == 0


@pytest.mark.parametrize(
    "deep",
    [
        Image.fromarray(GREY.astype(np.uint16) * 300),
        Image.fromarray(GREY.astype(np.int32) * 70_000 - 9),
        Image.fromarray(GREY.astype(np.float32) + 400),
        GREY.astype(np.uint16) * 300,
        torch.from_numpy(GREY.astype(np.int16) - 99)[None],
    ],
)
def test_pixels_of_more_than_a_byte_are_shown_in_their_own_range(deep: Any):
    np.testing.assert_allclose(pixels(view_of(deep)).astype(float), GREY / GREY.max() * 255, atol=1)


def test_a_large_picture_is_made_small():
    shown = pixels(view_of(np.random.default_rng(0).integers(0, 256, (400, 800, 3)).astype(np.uint8)))
    assert shown.shape == (80, 160, 3)


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        ("plain", "plain"),
        (("short", "a longer one", 3), "a longer one"),
        ({"text": "<b>bold</b>", "label": 1}, "<b>bold</b>"),
        ({"premise": "it rains", "hypothesis": "it is wet", "label": 1}, "premise: it rains\nhypothesis: it is wet"),
        ("x" * 1000, "x" * 299 + "…"),
        ((1, {"premise": "it rains", "hypothesis": "it is wet"}), "premise: it rains\nhypothesis: it is wet"),
        (("near", ["further away"]), "near"),
        ((torch.eye(9).to_sparse(), torch.zeros(9, 9, device="meta"), 1), None),
        ({"input_ids": [1, 2, 3]}, None),
        ((torch.zeros(8), 1), None),
        ((torch.zeros(2, 512), 1), None),
        ((torch.zeros(30, 40, dtype=torch.int64), 1), None),
        ((torch.zeros(5, 20, 20), 1), None),
        ((" ", 1), None),
        (7, None),
    ],
)
def test_a_text_is_found_and_what_is_neither_is_not_shown(sample: Any, text: str | None):
    assert view_of(sample) == View(text=text)


class Moody(Dataset[Any]):
    """Draws random numbers of all libraries, fails at one index, and is slow."""

    classes = ("a", "b")

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        _ = torch.rand(1), np.random.rand(), random.random()
        time.sleep(self.seconds)
        if index == 4:
            raise OSError("no such <file>\nat all")
        return f"text {index}"


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_samples_are_read_whatever_the_data_set_does_and_no_random_state_moves(num_workers: int):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    found = read(DataLoader(Moody(), num_workers=num_workers), [7, 4, 2])
    assert found == {7: View(text="text 7"), 4: View(error="OSError: no such <file>"), 2: View(text="text 2")}
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(after[0], before[0])
    assert after[1:] == before[1:]
    assert read(DataLoader(Moody()), []) == {}


def test_a_slow_data_set_is_left_after_a_while():
    assert read(DataLoader(Moody(0.01)), [1, 2, 3], seconds=0.005) == {1: View(text="text 1")}


def _die(worker: int) -> None:
    raise RuntimeError("no worker today")


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_reading_alone():
    found = read(DataLoader(Moody(), num_workers=1, worker_init_fn=_die), [1, 2])
    assert list(found) == [1]
    assert "RuntimeError" in (found[1].error or "")


def test_the_names_of_classes_are_those_that_the_data_set_keeps():
    assert class_names(Subset(Moody(), [0, 1])) == {0: "a", 1: "b"}
    assert class_names([1, 2]) == {}
    assert class_names(SimpleNamespace(classes=3, dataset=None)) == {}


def test_classes_have_no_names_where_the_labels_are_others_or_they_cannot_be_had():
    letters: Any = SimpleNamespace(classes=["N/A", "a", "b"], target_transform=None)
    assert class_names(letters) == {0: "N/A", 1: "a", 2: "b"}
    letters.target_transform = lambda label: label - 1
    for dataset in (letters, SimpleNamespace(classes=["x"], dataset=letters), SimpleNamespace(dataset=letters)):
        assert class_names(dataset) == {}
    circle = SimpleNamespace(classes=["x"])
    circle.dataset = circle
    assert class_names(circle) == {0: "x"}
