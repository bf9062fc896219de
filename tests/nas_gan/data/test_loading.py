import gzip
import struct
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas_gan.data import loading as data
from nas_gan.data.batches import LabelledBatches, ShuffledBatches, iterate_uint8, to_float
from nas_gan.data.images import ArrayImages, Labels, read_image, recorded_fit, to_grey, to_square
from nas_gan.data.loading import load_dataset, read_idx_images, read_idx_labels, synthetic_shapes
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


@pytest.fixture
def halves():
    """Twenty images, black on the left and white on the right, image i of class i mod 4."""
    images = torch.zeros(20, 1, 4, 4, dtype=torch.uint8)
    images[..., 2:] = 255
    return ArrayImages("halves", images, Labels(torch.arange(20) % 4, 4))


def save(path, colour, size=(10, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


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
    assert "set data_root or NAS_GAN_DATA" in message
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


def test_a_broken_image_of_a_folder_is_named_counted_and_left_out(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("png", "jpg"):
        save(tmp_path / f"good.{suffix}", (9, 9, 9))
        Image.fromarray(noise).save(tmp_path / f"cut.{suffix}")
        content = (tmp_path / f"cut.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").touch()
    images: Any = load_dataset("folder", size=8, root=tmp_path)
    assert [file.name for file in images.files] == ["good.jpg", "good.png"]
    assert [file.name for file in images.skipped] == ["cut.jpg", "cut.png", "empty.png"]
    (record,) = caplog.records
    assert "3 of 5 images below" in record.getMessage()
    for name in ("cut.jpg", "cut.png", "empty.png"):
        assert str(tmp_path / name) in record.getMessage()


def test_a_folder_of_nothing_but_broken_images_is_refused(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.png").write_bytes(b"x")
    with pytest.raises(MissingDataError, match=r"7 of 7 images .*0\.png .*and 2 more; replace"):
        load_dataset("folder", size=8, root=tmp_path)


def test_folders_are_classes_where_every_image_is_in_one(tmp_path):
    for name in ("b/1.png", "a/2.png", "b/sub/3.png"):
        save(tmp_path / name, (1, 2, 3))
    images: Any = load_dataset("folder", size=4, root=tmp_path, labelled=True)
    assert (images.labels.tolist(), images.n_classes) == ([0, 1, 1], 2)
    save(tmp_path / "stray.png", (1, 2, 3))
    with pytest.raises(InvalidValueError, match=r"1 images beside .*\(stray\.png\)"):
        load_dataset("folder", size=4, root=tmp_path, labelled=True)


def test_a_wide_image_is_cropped_or_stretched(tmp_path):
    path = tmp_path / "wide.png"
    wide = Image.new("RGB", (40, 20), (255, 0, 0))
    wide.paste((0, 0, 255), (10, 0, 30, 20))  # the middle square is blue
    wide.save(path)
    assert read_image(path, 20)[0].max() == 0
    stretched = read_image(path, 20, fit="stretch")
    assert [stretched[0, 0, x] for x in (0, 10, 19)] == [255, 0, 255]


def test_the_face_of_an_aligned_celeba_picture_is_cut_out_as_published(tmp_path):
    # 178 x 218 pixels that say where they are: red is the column, green the row.
    columns, rows = np.meshgrid(np.arange(178), np.arange(218))
    pixels = np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8)
    path = tmp_path / "face.png"
    Image.fromarray(pixels).save(path)
    red, green, _ = read_image(path, 64, fit="crop-72x88").double()
    # One pixel of the picture that covers 72 x 88 is 178 / 72 of the original; of its 72 columns
    # 4 are cut off on the left, of its 88 rows 12 at the top. The rows of the original that are too
    # many for 72 : 88 are half above and half below.
    scale = 178 / 72
    places = torch.arange(64).double() + 0.5
    above = (218 - 88 * scale) / 2
    assert (red[30] - ((places + 4) * scale - 0.5)).abs().max() <= 1
    assert (green[:, 30] - (above + (places + 12) * scale - 0.5)).abs().max() <= 1


def test_another_size_has_the_same_part_of_the_picture(tmp_path):
    path = tmp_path / "face.png"
    face = Image.new("RGB", (178, 218), (255, 0, 0))
    part = 178 / 72 * 64  # what is left of the width
    edges = [round((side - part) / 2) for side in (178, 218)]
    face.paste((0, 0, 255), (edges[0], edges[1], 178 - edges[0], 218 - edges[1]))
    face.save(path)
    for size in (32, 64, 128):
        inside = read_image(path, size, fit="crop-72x88")[:, 2:-2, 2:-2]
        assert inside[0].max() < 30, size  # all blue but for the edge
    assert read_image(path, 64)[0, 0, 0] == 255


def test_a_checkpoint_says_how_its_images_became_squares():
    assert recorded_fit({}) == "crop"
    assert recorded_fit({"fit": "crop-72x88"}) == "crop-72x88"
    with pytest.raises(InvalidValueError, match=r"fit of the checkpoint 'crap' is"):
        recorded_fit({"fit": "crap"})


def test_grey_is_the_luminance_in_memory_and_from_files(tmp_path):
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [77, 77, 77]])
    images = colours.to(torch.uint8).view(4, 3, 1, 1).expand(4, 3, 8, 8)
    grey = to_grey(images)
    assert grey[:, 0, 0, 0].tolist() == [76, 150, 29, 77]
    for i, colour in enumerate(colours.tolist()):
        save(tmp_path / f"{i}.png", tuple(colour))
    files = load_dataset("folder", size=8, root=tmp_path, channels=1)[torch.arange(4)]
    assert (files.int() - grey.int()).abs().max() <= 1
    assert torch.equal(to_square(images, 8, 1), grey)


def test_labels_come_with_the_images_of_an_idx_file(tmp_path, pixels, monkeypatch):
    monkeypatch.setattr(data, "FASHION_MNIST_DIRS", (tmp_path,))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    content = struct.pack(">2i", 2049, 5) + bytes([3, 1, 4, 1, 9])
    labels.write_bytes(gzip.compress(content))
    images: Any = load_dataset("fashion_mnist", size=28, channels=1, labelled=True)
    assert images.images.shape == (5, 1, 28, 28)
    assert (images.labels.tolist(), images.n_classes) == ([3, 1, 4, 1, 9], 10)
    labels.write_bytes(gzip.compress(content[:-1]))
    with pytest.raises(MissingDataError, match="not an IDX label file, or cut short"):
        read_idx_labels(labels)


def test_labels_are_those_of_the_batchs_images(halves):
    batches = LabelledBatches(ShuffledBatches(halves, 5, seed=0), 4)
    for index in (0, 7):
        images, onehot = batches(index)
        expected = halves.labels[batches.batches.indices(index)]
        assert torch.equal(onehot, torch.eye(4)[expected])
        assert torch.equal(images, batches.batches(index))
    with pytest.raises(InvalidValueError, match="halves has 4 classes; n_classes is 5"):
        LabelledBatches(batches.batches, 5)


def test_half_of_the_images_are_mirrored_the_same_ones_every_time(halves):
    flipped = ShuffledBatches(halves, 20, seed=0, flip=True)
    mirrored = torch.stack([flipped(index)[:, 0, 0, 0] > 0 for index in range(20)])  # (20, 20)
    assert 150 < mirrored.sum() < 250  # 400 coins: a deviation of 10
    again = ShuffledBatches(halves, 20, seed=0, flip=True)
    assert torch.equal(again(7), flipped(7))
    assert len({tuple(row) for row in mirrored.tolist()}) == 20


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
    with pytest.raises(InvalidValueError, match="numbered has 20 images, fewer than one batch"):
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


def test_what_is_no_square_is_cut_out_of_the_middle(pixels, tmp_path):
    square = to_square(torch.from_numpy(pixels)[:, None], 32)
    wide = to_square(torch.from_numpy(pixels)[:, None], (16, 32))
    assert torch.equal(wide, square[:, :, 8:24])
    from PIL import Image

    colours = np.arange(3 * 64 * 64, dtype=np.uint8).reshape(64, 64, 3)
    Image.fromarray(colours).save(tmp_path / "a.png")
    tall = load_dataset("folder", size=(64, 32), root=tmp_path)[torch.tensor([0])]
    assert torch.equal(tall[0], torch.from_numpy(colours).permute(2, 0, 1)[:, :, 16:48])
    stretched = load_dataset("folder", size=(32, 16), root=tmp_path, fit="stretch")
    assert stretched[torch.tensor([0])].shape == (1, 3, 32, 16)
    message = "^fit crop-72x88 makes squares; asked for 64 x 32"
    with pytest.raises(InvalidValueError, match=message):
        load_dataset("folder", size=(64, 32), root=tmp_path, fit="crop-72x88")[torch.tensor([0])]
