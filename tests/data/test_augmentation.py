import torch

from lightning_as.data.augmentation import flip_and_crop
from tests.helpers.statistics import p_value, seeded


def test_every_flip_and_shift_of_each_image_is_as_likely():
    """An image whose pixels are all different shows what was done to it."""
    image = torch.arange(1.0, 71.0).view(2, 5, 7)
    framed = torch.zeros(2, 13, 15)
    framed[:, 4:9, 4:11] = image
    crops = [framed[:, top : top + 5, left : left + 7] for top in range(9) for left in range(9)]
    possible = torch.stack([crop for each in crops for crop in (each, each.flip(2))])
    images = image.expand(4000, -1, -1, -1).clone()
    augmented = flip_and_crop(images, seeded())
    matches = (augmented.unsqueeze(1) == possible).flatten(2).all(2)
    assert matches.sum(1).tolist() == [1] * 4000
    assert p_value(matches.int().argmax(1), torch.ones(162).double()) > 1e-4
    assert torch.equal(images, image.expand_as(images))


def test_the_same_generator_gives_the_same_images_of_their_own_type():
    torch.manual_seed(0)
    state, images = torch.get_rng_state(), torch.randint(256, (6, 3, 8, 9), generator=seeded(), dtype=torch.uint8)
    one, other, third = (flip_and_crop(images, seeded(seed)) for seed in (1, 1, 2))
    assert (one.shape, one.dtype) == (images.shape, images.dtype)
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert torch.equal(torch.get_rng_state(), state)
