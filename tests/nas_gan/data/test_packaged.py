import pytest
import torch
from picture_archives import GREEN, RED, crossfire, font, png, record

from nas_gan.data import packaged
from nas_gan.data.loading import load_dataset
from nas_gan.data.packaged import PACKAGES, Package
from nas_gan.errors import InvalidValueError, MissingDataError

ALL = torch.arange(2)


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    away = {
        name: Package(package.name, tmp_path / "usr" / package.local, package.local)
        for name, package in PACKAGES.items()
    }
    monkeypatch.setattr(packaged, "PACKAGES", away)


@pytest.fixture
def root(tmp_path, nothing_installed):
    (tmp_path / "crossfire.base").write_bytes(crossfire(png(RED), png(RED, (64, 32)), png(GREEN)))
    (tmp_path / "NotoColorEmoji.ttf").write_bytes(font([record(png(RED)), record(png(GREEN))]))
    (tmp_path / "openclipart" / "animals").mkdir(parents=True)
    (tmp_path / "openclipart" / "animals" / "a.png").write_bytes(png(RED))
    (tmp_path / "openclipart" / "b.png").write_bytes(png(GREEN))
    return tmp_path


@pytest.mark.parametrize("name", PACKAGES)
def test_pictures_are_colour_with_the_transparent_parts_over_the_background(name, root):
    # Of green at 128 of 255, half is the background.
    for background, seen in (("white", (127, 255, 127)), ("#0000ff", (0, 128, 127))):
        images = load_dataset(name, size=16, root=root, background=background)
        assert len(images) == 2  # the picture of Crossfire that is no square is none of them
        pixels = images[ALL]
        assert pixels.shape == (2, 3, 16, 16)
        assert pixels[0, :, 3, 4].tolist() == [255, 0, 0]
        assert pixels[1, :, 3, 4].tolist() == pytest.approx(seen, abs=1)


def test_another_background_is_other_data(root):
    white, black = (
        load_dataset("crossfire", size=32, root=root, background=colour).digest
        for colour in ("white", "black")
    )
    assert white != black


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_not_installed_names_its_places_and_its_package(name, nothing_installed, tmp_path):
    with pytest.raises(MissingDataError) as caught:
        load_dataset(name, size=32, root=tmp_path / "root")
    message = str(caught.value)
    package = packaged.PACKAGES[name]
    for part in (f"apt-get install {package.name}", str(package.path), str(tmp_path / "root")):
        assert part in message


def test_they_have_no_classes(root):
    with pytest.raises(InvalidValueError, match="crossfire has no labels"):
        load_dataset("crossfire", size=32, root=root, labelled=True)


def test_an_archive_of_other_sizes_is_refused(tmp_path, nothing_installed):
    (tmp_path / "crossfire.base").write_bytes(crossfire(png(RED, (64, 64))))
    with pytest.raises(MissingDataError, match="no picture in it has 32 x 32 pixels"):
        load_dataset("crossfire", size=32, root=tmp_path)


@pytest.mark.parametrize(("name", "n"), [("crossfire", 5235), ("noto-emoji", 3926)])
def test_the_installed_packages_hold_what_their_versions_did(name, n):
    if not PACKAGES[name].path.exists():
        pytest.skip(f"{PACKAGES[name].name} is not installed")
    images = load_dataset(name, size=16)
    assert len(images) > 0.9 * n  # other versions have others
    first = images[torch.arange(100)].float()
    grey = (first.amax(dim=1) - first.amin(dim=1)).amax(dim=(1, 2)) < 8
    assert grey.float().mean() < 0.5
