import pytest
import torch
from foreign_nets import NETS


@pytest.mark.parametrize("name", NETS)
def test_a_foreign_net_is_the_same_every_time_and_its_images_follow_its_inputs(name):
    net = NETS[name]
    network = net.build()
    images = net.images(network, n=3)
    assert images.shape == (3, *net.image_shape)
    assert torch.equal(images, net.images(net.build(), n=3))
    assert images.std() > 0.1
    assert (images[0] - images[1]).abs().mean() > 0.03
    assert not any(hasattr(network, ours) for ours in ("latent_dim", "n_classes", "image_shape"))
