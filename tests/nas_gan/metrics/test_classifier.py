import pytest
import torch
from torch import nn

from nas_gan.data.images import ArrayImages, Labels
from nas_gan.data.loading import synthetic_shapes
from nas_gan.errors import InvalidValueError
from nas_gan.metrics.classifier import (
    ImageClassifier,
    class_accuracy,
    find_classifier,
    n_updates,
    train_classifier,
)
from nas_gan.networks.conditional import labels_of
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import latents_of


def quadrants(n=400, channels=1):
    """Grey noise with one bright quadrant of four, which is the class."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 4
    images = torch.randint(0, 60, (n, channels, 8, 8), generator=rng, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150
    return ArrayImages("quadrants", images, Labels.counted(labels))


class Painter(nn.Module):
    """Paints the quadrant that it is asked for, or always the first."""

    latent_dim, n_classes, image_shape = 3, 4, (1, 8, 8)

    def __init__(self, obeys=True):
        super().__init__()
        self.obeys = obeys

    def forward(self, z):
        labels = labels_of(z, 4) if self.obeys else torch.zeros(len(z), dtype=torch.long)
        onehot = torch.eye(4)[labels].view(-1, 1, 2, 2)
        return onehot.repeat_interleave(4, 2).repeat_interleave(4, 3) * 1.4 - 0.7


@pytest.fixture(scope="module")
def classifier():
    return train_classifier(quadrants(), epochs=6)


def test_it_learns_what_can_be_told_apart(classifier):
    assert classifier.accuracy == 1
    assert not classifier.training


def test_accuracy_is_the_share_of_images_that_are_what_was_asked_for(classifier):
    assert class_accuracy(Painter(), classifier, 200, seed=1) == 1
    lazy = Painter(obeys=False)
    asked = labels_of(latents_of(interface_of(lazy), 200, seed=1), 4)
    share = (asked == 0).double().mean().item()
    assert class_accuracy(lazy, classifier, 200, seed=1, batch_size=7) == pytest.approx(share)


def test_the_same_seed_is_the_same_classifier_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    images = quadrants(60)
    updates: list[int] = []
    a, b = (train_classifier(images, epochs=1, on_update=updates.append) for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    assert all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))
    assert sum(updates) == 2 * n_updates(images, epochs=1) == 2


def test_a_second_asking_trains_nothing(tmp_path):
    images = quadrants(80)
    first = find_classifier(images, cache=tmp_path)
    trained: list[int] = []
    again = find_classifier(images, cache=tmp_path, on_update=trained.append)
    assert trained == []
    assert again.accuracy == first.accuracy
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    other = ArrayImages("quadrants", images.images, Labels((images.labels + 1) % 4, 4))
    find_classifier(other, cache=tmp_path, on_update=trained.append)
    assert trained
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_made_again(tmp_path):
    images = quadrants(80)
    find_classifier(images, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    path.write_bytes(good[:100])
    find_classifier(images, cache=tmp_path)
    assert len(path.read_bytes()) == len(good)


def test_what_does_not_fit_is_refused(classifier):
    colour = Painter()
    colour.image_shape = (3, 8, 8)
    with pytest.raises(InvalidValueError, match=r"takes images \(1, 8, 8\), .* \(3, 8, 8\)"):
        class_accuracy(colour, classifier, 4, seed=0)
    plain = Painter()
    plain.n_classes = 0
    with pytest.raises(InvalidValueError, match="has 4 classes and the generator has 0"):
        class_accuracy(plain, classifier, 4, seed=0)
    with pytest.raises(InvalidValueError, match="numbers has no labels"):
        train_classifier(ArrayImages("numbers", torch.zeros(9, 1, 8, 8, dtype=torch.uint8)))
    with pytest.raises(InvalidValueError, match="1 images, which is too few"):
        train_classifier(synthetic_shapes(size=8, n=1))
    with pytest.raises(InvalidValueError, match="at least 4 px"):
        ImageClassifier((1, 3, 3), 2)
