from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_gan.cache import cache_dir, is_cached
from nas_gan.data.images import ArrayImages
from nas_gan.data.loading import load_dataset, synthetic_shapes
from nas_gan.metrics import inception
from nas_gan.metrics.classifier import find_classifier
from nas_gan.metrics.reference import find_reference

ROOT = Path(__file__).parents[2]
# A process whose user is in no list of users, as in many containers.
NOBODY = """
import pwd, runpy, sys

def unknown(user):
    raise KeyError(user)

pwd.getpwuid = unknown
sys.argv = {command!r}
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class MeanColour:
    name, dim, comparable = "mean-colour@4", 3, False

    def __call__(self, images):
        return torch.as_tensor(images).float().mean(dim=(2, 3)).numpy()


def statistics(images, cache):
    found, _ = find_reference(
        "auto",
        MeanColour(),
        dataset="folder",
        data_sha256=None,
        resolution=4,
        data=lambda: images,
        cache=cache,
    )
    return found


def write(folder: Path, level: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(3):
        Image.new("RGB", (4, 4), (level + number, 0, 0)).save(folder / f"{number}.bmp")


def test_other_pixels_under_the_same_names_and_sizes_have_other_statistics(tmp_path: Path):
    means = []
    for level in (10, 20, 10):
        write(tmp_path / "data", level)
        images = load_dataset("folder", size=4, root=tmp_path / "data")
        means.append(statistics(images, tmp_path / "cache").mean[0])
    assert means == [11, 21, 11]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_damaged_file_in_the_cache_is_made_again(tmp_path: Path):
    images = synthetic_shapes(size=4, n=8)
    first = statistics(images, tmp_path)
    [file] = tmp_path.iterdir()
    file.write_bytes(b"PK")
    np.testing.assert_array_equal(statistics(images, tmp_path).mean, first.mean)
    assert file.stat().st_size > 100


@pytest.mark.parametrize("where", ["a file", "below a file", "no device", "a folder in its place"])
def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, where: str, caplog):
    (tmp_path / "file").write_bytes(b"")
    images = synthetic_shapes(size=8, n=20)
    cache = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "x",
        "no device": Path("/proc/nowhere"),
        "a folder in its place": tmp_path,
    }[where]
    if where == "a folder in its place":
        statistics(images, tmp_path)
        find_classifier(images, cache=tmp_path)
        for path in [path for path in tmp_path.iterdir() if path.name != "file"]:
            path.unlink()
            (path / "x").mkdir(parents=True)
    assert statistics(images, cache).n == 20
    assert find_classifier(images, cache=cache).n_classes == 10
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert all("cannot be written" in message for message in messages)


def test_a_cache_that_can_only_be_read_is_read(tmp_path: Path, caplog):
    images = synthetic_shapes(size=4, n=8)
    statistics(images, tmp_path)
    tmp_path.chmod(0o500)
    assert statistics(images, tmp_path).n == 8
    assert caplog.records == []


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_a_cache_home_that_is_no_absolute_path_is_ignored(monkeypatch, value: str):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/.cache/ard-gan")


def test_without_a_home_nothing_is_cached_and_one_warning_says_so(monkeypatch, caplog):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_dir() is None
    assert len(caplog.records) == 1
    assert not is_cached(Path("/proc/1/root/nowhere"))


def test_weights_are_downloaded_beside_a_hub_that_cannot_be_written(
    tmp_path: Path, monkeypatch, caplog
):
    import pytorch_fid.inception

    source = tmp_path / "weights.pth"
    torch.save({"x": torch.ones(1)}, source)
    monkeypatch.setattr(pytorch_fid.inception, "FID_WEIGHTS_URL", source.as_uri())
    (tmp_path / "file").write_bytes(b"")
    for home, n_warnings in ((tmp_path / "file", 1), (tmp_path / "hub", 1)):
        monkeypatch.setenv("TORCH_HOME", str(home))
        assert inception._load_inception_weights(None) == {"x": torch.ones(1)}
        assert len(caplog.records) == n_warnings
    assert (tmp_path / "hub/hub/checkpoints/weights.pth").is_file()


def test_a_user_without_a_home_can_train_and_measure(tmp_path: Path):
    environment = {
        name: value for name, value in os.environ.items()
        if name not in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "TORCH_HOME", "MPLCONFIGDIR")
    }  # fmt: skip
    train = ["nas_gan.train", "--dataset", "synthetic", "--model", "dcgan", "--gf-dim", "4",
             "--df-dim", "4", "--image-size", "32", "--steps", "2", "--batch-size", "4",
             "--run-dir", str(tmp_path / "run"), "--eval-every", "2", "--eval-samples", "16",
             "--features", "efficientnet-lite0"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", NOBODY.format(command=train)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing is cached for the next run" in done.stderr


def test_equal_images_of_another_name_share_a_cache(tmp_path: Path):
    pixels = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    statistics(ArrayImages("a", pixels), tmp_path)
    statistics(ArrayImages("b", pixels), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
