from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nas_gan.data.loading import load_dataset, synthetic_shapes
from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.metrics.sources import (
    ArraySource,
    DatasetSource,
    FolderSource,
    GeneratedSource,
    open_images,
)
from nas_gan.networks.interface import interface_of
from nas_gan.networks.latents import StreamedLatents, latents_of


class OneHotGenerator(nn.Module):
    latent_dim, n_classes, image_shape = 4, 3, (1, 2, 2)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z[:, :4]).view(-1, 1, 2, 2)


def write_images(folder: Path, sizes: list[int]) -> None:
    folder.mkdir()
    for index, size in enumerate(sizes):
        Image.new("RGB", (size, size), (index, 0, 0)).save(folder / f"{index}.png")


def test_a_broken_image_is_named_skipped_and_counted(tmp_path: Path):
    write_images(tmp_path / "i", [4, 4, 4])
    (tmp_path / "i" / "1.png").write_bytes(b"\x89PNG cut short")
    source = FolderSource(tmp_path / "i")
    [batch] = source.batches(8)
    assert (len(source), batch.rows.tolist(), batch.images[:, 0, 0, 0].tolist()) == (
        3,
        [0, 2],
        [0, 2],
    )
    [skipped] = source.skipped
    assert "1.png: not a readable image" in skipped


def test_a_new_size_starts_a_new_batch(tmp_path: Path):
    write_images(tmp_path / "i", [4, 4, 4, 6])
    shapes = [tuple(b.images.shape) for b in FolderSource(tmp_path / "i").batches(2)]
    assert shapes == [(2, 3, 4, 4), (1, 3, 4, 4), (1, 3, 6, 6)]


def test_a_folder_without_a_readable_image_is_an_error(tmp_path: Path):
    with pytest.raises(MissingDataError, match="files below"):
        FolderSource(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(MissingDataError, match="no readable image below"):
        list(FolderSource(tmp_path).batches(4))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_may_have_its_channels_first_or_last(
    tmp_path: Path, channels: int, channels_last: bool
):
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 6, 7), np.uint8)
    stored = images.transpose(0, 2, 3, 1) if channels_last else images
    np.savez(tmp_path / "a.npz", images=stored, other=np.zeros(2))
    batches = list(ArraySource(tmp_path / "a.npz").batches(2))
    assert [batch.rows.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    joined = torch.cat([batch.images for batch in batches])
    np.testing.assert_array_equal(joined, np.broadcast_to(images, (5, 3, 6, 7)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"arr_0": np.zeros((2, 3, 4, 4), np.float32)}, "arr_0 is float32; images are uint8"),
        ({"x": np.zeros((2, 4, 4), np.uint8)}, r"\(2, 4, 4\) is neither"),
        ({"x": np.zeros((2, 3, 4, 3), np.uint8)}, r"\(2, 3, 4, 3\) is either of"),
        ({"a": np.zeros(1), "b": np.zeros(1)}, "holds a, b; name the array"),
        (b"text", "not an .npz file"),
    ],
    ids=["floats", "three axes", "ambiguous", "no name", "no file"],
)
def test_a_file_without_images_is_named(tmp_path: Path, content, message: str):
    path = tmp_path / "a.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(InvalidValueError, match=message) as error:
        ArraySource(path)
    assert str(path) in str(error.value)


def test_conditional_images_come_with_the_labels_that_were_asked_for():
    generator = OneHotGenerator()
    source = GeneratedSource("g", generator, StreamedLatents(interface_of(generator), 10, 3))
    batches = list(source.batches(4))
    labels = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    assert torch.equal(labels, latents_of(interface_of(generator), 10, 3)[:, 4:].argmax(dim=1))
    assert [batch.images.shape for batch in batches][-1] == (2, 3, 2, 2)


def test_chosen_rows_of_a_data_set_come_in_their_order():
    images = synthetic_shapes(size=8, n=20)
    batches = list(DatasetSource(images, np.array([3, 5, 19])).batches(2))
    joined = torch.cat([batch.images for batch in batches])
    assert torch.equal(joined, images[torch.tensor([3, 5, 19])])


def test_a_checkpoint_is_no_images(tmp_path: Path):
    assert open_images(tmp_path / "g.pt") is None


def test_transparent_images_are_counted_in_one_warning(tmp_path: Path, caplog):
    write_images(tmp_path / "i", [4, 4])
    for name in ("8.png", "9.png"):
        Image.new("RGBA", (4, 4), (7, 0, 0, 0)).save(tmp_path / "i" / name)
    source = FolderSource(tmp_path / "i")
    [batch] = source.batches(8)
    assert batch.images[:, 0, 0, 0].tolist() == [0, 1, 7, 7]
    [record] = caplog.records
    assert "2 of 4 images" in record.getMessage()
    assert record.getMessage().endswith("as pytorch-fid does: 8.png, 9.png")


def test_training_and_metrics_read_the_same_files_alike(tmp_path: Path):
    deep = np.random.default_rng(0).integers(0, 65536, (3, 8, 8)).astype(np.uint16)
    for number, pixels in enumerate(deep):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    Image.fromarray(deep[0]).save(tmp_path / ".ipynb_checkpoints" / "0.png")
    [batch] = FolderSource(tmp_path).batches(8)
    trained = load_dataset("folder", size=8, root=tmp_path)[torch.arange(3)]
    assert torch.equal(batch.images, trained)
    np.testing.assert_array_equal(batch.images[:, 0], deep >> 8)
