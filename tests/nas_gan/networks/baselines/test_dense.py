import pytest
import torch

from nas_gan.networks.baselines import dense
from nas_gan.networks.baselines.network import LayeredDiscriminator, LayeredGenerator

PAIRS = {
    "linear": (dense.mlp_generator, dense.mlp_discriminator, 10),
    "maxout": (dense.maxout_gan_generator, dense.maxout_gan_discriminator, 0),
    "conditional maxout": (dense.maxout_cgan_generator, dense.maxout_cgan_discriminator, 10),
}


@pytest.mark.parametrize("name", PAIRS)
def test_images_of_any_size_and_colour_are_made_and_scored(name):
    make, judge, n_classes = PAIRS[name]
    shape = {"image_size": 6, "image_channels": 3, "n_classes": n_classes}
    generator = LayeredGenerator(make(gf_dim=8, **shape))
    discriminator = LayeredDiscriminator(judge(df_dim=8, **shape))
    onehot = (torch.eye(n_classes)[:2],) if n_classes else ()
    images = generator(torch.cat([torch.randn(2, 100), *onehot], dim=1))
    assert images.shape == (2, 3, 6, 6)
    assert images.abs().max() <= 1
    assert discriminator(images, *onehot).shape == (2, 1)


def test_the_label_changes_the_image_and_the_score():
    generator = LayeredGenerator(
        dense.maxout_cgan_generator(gf_dim=8, image_size=6, n_classes=10)
    ).eval()
    judge = LayeredDiscriminator(
        dense.maxout_cgan_discriminator(df_dim=8, image_size=6, n_classes=10)
    ).eval()
    z, eye = torch.randn(1, 100).expand(10, -1), torch.eye(10)
    images = generator(torch.cat([z, eye], dim=1))
    assert len(torch.unique(images.flatten(1), dim=0)) == 10
    assert len(torch.unique(judge(images[:1].expand(10, -1, -1, -1), eye))) > 1


def test_noise_on_the_image_and_on_the_label_is_off_unless_asked_for():
    images, onehot = torch.randn(4, 1, 6, 6), torch.eye(10)[:4]

    def repeats(**options):
        spec = dense.maxout_cgan_discriminator(
            df_dim=8, image_size=6, n_classes=10, dropout=0.0, **options
        )
        net = LayeredDiscriminator(spec)
        return torch.equal(net(images, onehot), net(images, onehot))

    assert repeats()
    assert not repeats(noise=0.3)
    assert not repeats(label_noise=0.3)
