import pytest
import torch
from torch import nn

from nas_gan.errors import DivergedError
from nas_gan.networks.interface import GeneratorInterface
from nas_gan.pictures.samples import class_latents, draw_images, picture_latents, walk_noise

CONDITIONAL = GeneratorInterface(latent_dim=4, n_classes=3, image_shape=(1, 4, 4))


def test_each_row_is_a_class_and_each_column_one_noise():
    [latents] = class_latents(CONDITIONAL, columns=2, seed=0)
    noise, labels = latents.split([4, 3], dim=1)
    assert labels.argmax(dim=1).tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(noise[:2], noise[2:4])
    assert not torch.equal(noise[0], noise[1])


def test_labels_stay_while_noise_walks():
    stops = picture_latents(CONDITIONAL, 5, seed=0, n_pictures=2)  # (2, 5, 7)
    walk = walk_noise(CONDITIONAL, stops, 6)
    assert (walk[:, :, 4:] == stops[0, :, 4:]).all()
    torch.testing.assert_close(walk[[0, 3], :, :4], stops[:, :, :4])


@pytest.mark.parametrize("latents", [picture_latents, class_latents])
def test_a_walk_starts_at_the_still_of_its_seed(latents):
    [still] = latents(CONDITIONAL, 5, 3)
    assert torch.equal(latents(CONDITIONAL, 5, 3, n_pictures=4)[0], still)


def test_a_walk_without_labels_is_that_of_the_noise():
    stops = picture_latents(GeneratorInterface(4, 0, (1, 4, 4)), 5, seed=0, n_pictures=2)
    walk = walk_noise(GeneratorInterface(4, 0, (1, 4, 4)), stops, 2)
    torch.testing.assert_close(walk, stops)


def test_images_are_in_the_order_of_their_latents_whatever_the_batches():
    latents = torch.arange(100.0)[:, None]
    images = draw_images(nn.Unflatten(1, (1, 1, 1)), latents, "cpu")
    assert images.flatten().tolist() == list(range(100))


def test_an_infinite_pixel_is_refused():
    with pytest.raises(DivergedError, match="NaN or infinite pixels"):
        draw_images(nn.Identity(), torch.tensor([[0.0], [torch.inf]]), "cpu")
