from typing import Any

import pytest
import torch

from nas_gan.errors import InvalidValueError
from nas_gan.networks.baselines.network import LayeredDiscriminator, LayeredGenerator, NetworkSpec

IMAGE: list[dict[str, Any]] = [
    {"type": "linear", "out": 12}, {"type": "output"}, {"type": "reshape", "to": [3, 2, 2]}
]  # fmt: skip
SCORE: list[dict[str, Any]] = [{"type": "flatten"}, {"type": "linear", "out": 1}]


def test_a_generator_says_what_it_takes_and_gives():
    generator = LayeredGenerator(NetworkSpec((5,), IMAGE, n_classes=4))
    assert (generator.latent_dim, generator.n_classes, generator.image_shape) == (5, 4, (3, 2, 2))
    assert generator(torch.randn(7, 9)).shape == (7, 3, 2, 2)


@pytest.mark.parametrize("n_classes", [0, 4])
def test_latents_of_another_width_are_refused(n_classes):
    generator = LayeredGenerator(NetworkSpec((5,), IMAGE, n_classes=n_classes))
    for width in (4, 10):
        with pytest.raises(RuntimeError, match="split"):
            generator(torch.randn(1, width))


def test_noise_and_label_take_their_own_branches_and_meet():
    spec = NetworkSpec(
        (5,), IMAGE, [{"type": "linear", "out": 6}], [{"type": "linear", "out": 2}], n_classes=4
    )
    net: Any = LayeredGenerator(spec)
    z, onehot = torch.randn(3, 5), torch.eye(4)[:3]
    joined = torch.cat([net.features.linear1(z), net.labels.linear1(onehot)], dim=1)
    torch.testing.assert_close(net(torch.cat([z, onehot], dim=1)), net.layers(joined))


def test_labels_join_a_feature_map_as_constant_planes():
    net = LayeredDiscriminator(NetworkSpec((3, 2, 2), SCORE, n_classes=4))
    images, onehot = torch.randn(2, 3, 2, 2), torch.eye(4)[[1, 3]]
    planes = torch.zeros(2, 4, 2, 2)
    planes[0, 1] = planes[1, 3] = 1
    by_hand = net.layers(torch.cat([images, planes], dim=1))
    torch.testing.assert_close(net(images, onehot), by_hand)


def test_a_discriminator_insists_on_labels_if_and_only_if_it_has_classes():
    images, onehot = torch.randn(2, 3, 2, 2), torch.eye(4)[:2]
    with pytest.raises(InvalidValueError, match="4 classes; call it with images and one-hot"):
        LayeredDiscriminator(NetworkSpec((3, 2, 2), SCORE, n_classes=4))(images)
    with pytest.raises(InvalidValueError, match="0 classes; call it with images alone"):
        LayeredDiscriminator(NetworkSpec((3, 2, 2), SCORE, n_classes=0))(images, onehot)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NetworkSpec((0,), IMAGE, n_classes=0), "input shape of whole numbers"),
        (lambda: NetworkSpec((), IMAGE, n_classes=0), "input shape of whole numbers"),
        (
            lambda: NetworkSpec(("5",), IMAGE, n_classes=0),  # type: ignore[arg-type]
            "input shape of whole numbers",
        ),
        (lambda: NetworkSpec((5,), IMAGE, n_classes=1), "at least 2 classes"),
        (
            lambda: NetworkSpec((5,), IMAGE, labels=[{"type": "flatten"}], n_classes=0),
            "at least 2 classes",
        ),
        (lambda: LayeredGenerator(NetworkSpec((5,), SCORE, n_classes=0)), r"to \(1,\)$"),
        (
            lambda: LayeredDiscriminator(NetworkSpec((3, 4, 4), SCORE[:0], n_classes=0)),
            r"to \(3, 4, 4\)$",
        ),
        (
            lambda: LayeredGenerator(
                NetworkSpec((5,), IMAGE, labels=[{"type": "reshape", "to": [2, 2, 1]}], n_classes=4)
            ),
            "labels must end as a vector",
        ),
    ],
)
def test_a_network_that_cannot_be_is_refused(build, message):
    with pytest.raises(InvalidValueError, match=message):
        build()
