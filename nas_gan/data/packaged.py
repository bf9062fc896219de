"""Data sets of real colour that come with packages of Debian, read where the package puts them.

Their licences are those of the packages; nothing of them is kept here. Transparent pixels show the
background, as those of image files do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nas_gan.data.archives import StoredPicture, read_colour_font, read_crossfire
from nas_gan.data.files import decode_picture, parse_colour
from nas_gan.data.images import ArrayImages, Fit, Size, fitted
from nas_gan.errors import MissingDataError
from nas_gan.progress import Progress, no_progress

# Height and width of nearly all pictures of Crossfire; larger ones are pieces of a mosaic of them.
CROSSFIRE_SIZE = (32, 32)


@dataclass(frozen=True)
class Package:
    """Where the data of a set are.

    Attributes:
        name: of the Debian package.
        path: of its file or folder.
        local: what the file or folder is called where somebody keeps a copy.
    """

    name: str
    path: Path
    local: str


PACKAGES = {
    "crossfire": Package(
        "crossfire-client-images",
        Path("/usr/share/games/crossfire-client/crossfire.base"),
        "crossfire.base",
    ),
    "noto-emoji": Package(
        "fonts-noto-color-emoji",
        Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),
        "NotoColorEmoji.ttf",
    ),
    "openclipart": Package("openclipart-png", Path("/usr/share/openclipart/png"), "openclipart"),
}


def packaged_path(dataset: str, root: Path) -> Path:
    """The file or the folder of a data set: below `root`, or where its package puts it.

    Raises:
        MissingDataError: it is in neither place.
    """
    package = PACKAGES[dataset]
    places = (root / package.local, package.path)
    for place in places:
        if place.exists():
            return place
    raise MissingDataError(
        f"{dataset} is not installed; looked for {', '.join(map(str, places))}. "
        f"Get it with: apt-get install {package.name}"
    )


def load_packaged(
    dataset: str,
    path: Path,
    size: Size,
    *,
    channels: int = 3,
    fit: Fit = "crop",
    background: str = "white",
    progress: Progress = no_progress,
) -> ArrayImages:
    """The pictures of `crossfire` or `noto-emoji`, decoded once and kept in memory.

    Args:
        dataset: one of the two.
        path: its file.
        size: height and width in pixels, one number for a square.
        channels: 3 for colour, 1 for grey.
        fit: how a picture becomes a square.
        background: what transparent pixels are laid over.
        progress: shows a bar while pictures are decoded.

    Raises:
        MissingDataError: the file is damaged, or no picture in it can be used.
    """
    read: Callable[[Path], Sequence[StoredPicture]]
    read = read_crossfire if dataset == "crossfire" else read_colour_font
    pictures = read(path)
    if dataset == "crossfire":
        pictures = [picture for picture in pictures if picture.size == CROSSFIRE_SIZE]
        if not pictures:
            height, width = CROSSFIRE_SIZE
            raise MissingDataError(f"{path}: no picture in it has {height} x {width} pixels")
    below, squares = parse_colour(background), []
    with progress(f"decoding {dataset}", len(pictures)) as advance:
        for picture in pictures:
            seen = decode_picture(picture.data, picture.name, channels=channels, background=below)
            squares.append(fitted(seen.pixels, size, fit))
            advance(1)
    return ArrayImages(dataset, torch.stack(squares))
