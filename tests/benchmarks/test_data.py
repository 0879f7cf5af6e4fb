import torch
from torch.nn.functional import pad

from benchmarks.budgets.data import BUCKETS, hashed, standardised
from lightning_as.data.augmentation import flip_and_crop


def test_texts_become_words_and_pairs_in_any_case():
    numbers = hashed(["The end", "the", "the end of it"])
    assert numbers.shape == (3, 7)
    first, second, third = (row[row > 0].tolist() for row in numbers)
    assert [len(first), len(second), len(third)] == [3, 1, 7]
    assert set(second) < set(first) < set(third)
    assert 0 < int(numbers[numbers > 0].min()) <= int(numbers.max()) < BUCKETS
    assert hashed(["the end"])[0, 0] == 0x3C456DE6 % (BUCKETS - 1) + 1  # the CRC-32 of "the"


def test_columns_are_standardised_by_the_training_instances_alone():
    training = torch.tensor([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
    ours, theirs = standardised(training, torch.tensor([[7.0, 8.0]]))
    torch.testing.assert_close(ours, torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(theirs, torch.tensor([[2.0, 1.0]]))


def test_images_are_moved_and_mirrored_and_nothing_else():
    images = torch.randint(1, 256, (40, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = flip_and_crop(images, torch.Generator().manual_seed(1))
    mirrored = 0
    for before, after in zip(images, moved, strict=True):
        windows = pad(before, [4] * 4).unfold(1, 6, 1).unfold(2, 6, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        plain, flipped = ((windows == seen).flatten(1).all(1).any() for seen in (after, after.flip(-1)))
        assert plain or flipped
        mirrored += int(not plain)
    assert 8 <= mirrored <= 32
