import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from nas_gan import data
from nas_gan.data import (
    ArrayImages,
    ShuffledBatches,
    iterate_uint8,
    load_dataset,
    read_idx_images,
    read_image,
    synthetic_shapes,
    to_float,
    to_square,
)
from nas_gan.errors import InvalidValueError, MissingDataError


def idx(pixels, magic=2051):
    n, h, w = pixels.shape
    return struct.pack(">4i", magic, n, h, w) + pixels.tobytes()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


@pytest.fixture
def numbered():
    """Twenty 4 x 4 images; image i is grey level i throughout."""
    levels = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1)
    return ArrayImages("numbered", levels.expand(20, 3, 4, 4).contiguous())


def levels_of(batch):
    return ((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_an_idx_file_gives_its_pixels(tmp_path, pixels):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(pixels)))
    assert torch.equal(read_idx_images(path), torch.from_numpy(pixels)[:, None])


@pytest.mark.parametrize("case", ["not gzip", "cut gzip", "broken gzip", "labels", "short", "tiny"])
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, pixels, case):
    good = gzip.compress(idx(pixels))
    content = {
        "not gzip": idx(pixels),
        "cut gzip": good[:-100],
        "broken gzip": good[:50] + b"\xff" * 40 + good[90:],
        "labels": gzip.compress(idx(pixels, magic=2049)),
        "short": gzip.compress(idx(pixels)[:-1]),
        "tiny": gzip.compress(b"abc"),
    }[case]
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(MissingDataError, match=r"images\.gz: not .*get it again"):
        read_idx_images(path)


def test_28_px_grey_is_padded_and_repeated(pixels):
    images = to_square(torch.from_numpy(pixels)[:, None], 32)
    assert images.shape == (5, 3, 32, 32)
    assert images.dtype == torch.uint8
    for channel in range(3):
        assert torch.equal(images[:, channel, 2:-2, 2:-2], torch.from_numpy(pixels))
    images[:, :, 2:-2, 2:-2] = 0
    assert not images.any()


@pytest.mark.parametrize("size", [32, 48, 16])
def test_resizing_a_flat_colour_keeps_it(size):
    images = torch.tensor([0, 100, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 32, 32)
    assert torch.equal(to_square(images, size), images[..., :1, :1].expand(2, 3, size, size))


def test_bytes_become_floats_in_minus_one_to_one():
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


def test_fashion_mnist_is_found_in_a_torchvision_root(tmp_path, pixels, monkeypatch):
    monkeypatch.setattr(data, "FASHION_MNIST_DIRS", ())
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
    images = load_dataset("fashion_mnist", size=32, root=tmp_path)
    assert len(images) == 5
    assert images[torch.tensor([3, 1])].shape == (2, 3, 32, 32)


def test_missing_fashion_mnist_names_every_place_and_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "FASHION_MNIST_DIRS", (tmp_path / "usr", tmp_path / "share"))
    with pytest.raises(MissingDataError) as caught:
        load_dataset("fashion_mnist", size=32, root=tmp_path / "root")
    message = str(caught.value)
    for place in ("usr", "share", "root", "root/FashionMNIST/raw"):
        assert str(tmp_path / place / "train-images-idx3-ubyte.gz") in message
    assert message.endswith("apt-get install dataset-fashion-mnist")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "cls"),
    [("mnist", "MNIST"), ("cifar10", "CIFAR10"), ("cifar100", "CIFAR100"), ("stl10", "STL10"),
     ("celeba", "CelebA")],
)  # fmt: skip
def test_missing_torchvision_data_name_the_root_and_the_command(name, cls, tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_GAN_DATA", str(tmp_path))
    with pytest.raises(MissingDataError) as caught:
        load_dataset(name, size=32)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "--data-root" in message
    command = message.partition("python -c ")[2].strip('"')
    compile(command, "command", "exec")
    assert f"{cls}('{tmp_path}', download=True)" in command


def test_an_unknown_name_gives_the_choices():
    with pytest.raises(InvalidValueError, match="fashion_mnist, mnist, cifar10"):
        load_dataset("imagenet", size=32)


def test_an_image_folder_is_read_in_order_scaled_and_cropped(tmp_path):
    (tmp_path / "sub").mkdir()
    wide = Image.new("RGB", (40, 20), (255, 0, 0))
    wide.paste((0, 0, 255), (10, 0, 30, 20))  # the middle square is blue
    wide.save(tmp_path / "sub" / "b.png")
    Image.new("L", (10, 10), 7).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not an image")
    images = load_dataset("folder", size=10, root=tmp_path)
    assert len(images) == 2
    grey, blue = images[torch.tensor([0, 1])]
    assert grey.unique().tolist() == [7]
    assert blue[:, 5, 5].tolist() == [0, 0, 255]


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(MissingDataError, match=r"no \.png, .* files below"):
        load_dataset("folder", size=8, root=tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 8, 60])
def test_a_broken_image_is_refused_by_name(tmp_path, keep):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = tmp_path / "broken.png"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MissingDataError, match=r"broken\.png: not a readable image .*replace it"):
        read_image(path, 8)


def test_an_epoch_holds_every_image_once(numbered):
    batches = ShuffledBatches(numbered, 5, seed=0)
    assert batches.per_epoch == 4
    epochs = [[level for i in range(4) for level in levels_of(batches(4 * e + i))] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20))
    assert epochs[0] != epochs[1]


def test_images_that_do_not_fill_a_batch_sit_an_epoch_out(numbered):
    batches = ShuffledBatches(numbered, 8, seed=0)
    levels = [level for i in range(2) for level in levels_of(batches(i))]
    assert len(set(levels)) == 16


def test_a_batch_depends_on_nothing_but_its_index(numbered):
    forward = ShuffledBatches(numbered, 5, seed=3)
    expected = {i: levels_of(forward(i)) for i in range(12)}
    torch.manual_seed(99)
    shuffled = ShuffledBatches(numbered, 5, seed=3)
    for i in (11, 0, 7, 4, 0):
        assert levels_of(shuffled(i)) == expected[i]


def test_another_seed_is_another_order(numbered):
    orders = {tuple(levels_of(ShuffledBatches(numbered, 20, seed)(0))) for seed in range(5)}
    assert len(orders) == 5


def test_a_data_set_smaller_than_a_batch_is_refused(numbered):
    with pytest.raises(InvalidValueError, match="numbered has 20 images, less than one batch"):
        ShuffledBatches(numbered, 21, seed=0)


def test_iterating_gives_all_images_in_order(numbered):
    batches = list(iterate_uint8(numbered, 8))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    assert torch.equal(torch.cat(batches), numbered.images)


def test_the_digest_tells_contents_apart(numbered):
    changed = numbered.images.clone()
    changed[0, 0, 0, 0] = 1
    assert ArrayImages("a", numbered.images).digest == numbered.digest
    assert ArrayImages("a", changed).digest != numbered.digest


def test_synthetic_images_are_bright_discs_on_black():
    images = synthetic_shapes(size=16, n=8).images
    assert images.shape == (8, 3, 16, 16)
    assert not images[:, :, 0, 0].any()
    assert all(image.any() for image in images)
    assert all(image[channel].unique().numel() == 2 for image in images for channel in range(3))
