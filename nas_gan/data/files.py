"""Image files of a folder: finding them and reading them, the same for training and for metrics.

What is read is the first picture of a file as it is stored, as pytorch-fid and clean-fid do: the
orientation in its EXIF data is not applied, and later pictures of an animation are not looked at.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from nas_gan.errors import InvalidValueError, MissingDataError, named

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)
Value = TypeVar("Value")

# Those of pytorch-fid.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")
# Folders that systems leave beside images: the second halves of files of macOS, which have the
# names of images, and the thumbnails of Synology.
_JUNK = ("__MACOSX", "@eaDir")
WHITE = "white"
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ImageFiles:
    """What is below a folder.

    Attributes:
        root: the folder.
        files: its image files, sorted by path.
        left_out: everything else by the reason: hidden names, other suffixes, and what is no file
            or cannot be listed.
    """

    root: Path
    files: tuple[Path, ...]
    left_out: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def describe_left_out(self) -> str:
        """What is left out, counted and named, on one line; empty if nothing is."""
        parts = []
        for reason, paths in self.left_out.items():
            names = named(str(path.relative_to(self.root)) for path in paths)
            parts.append(f"{len(paths)} {reason} ({names})")
        return ", ".join(parts)


def list_images(root: Path) -> ImageFiles:
    """The image files below a folder, by their suffix in upper or lower case.

    Names that begin with a dot are left out, files and folders alike, as is what macOS and Synology
    leave behind. Links are followed, and a folder that contains itself by way of a link is entered
    once. Two links to one folder count as two folders, as two copies of it would.

    Raises:
        MissingDataError: there is none; the message says what was found instead.
    """
    files: list[Path] = []
    left_out: dict[str, list[Path]] = {}

    def leave_out(path: Path, reason: str) -> None:
        left_out.setdefault(reason, []).append(path)

    def walk(folder: Path, above: frozenset[tuple[int, int]]) -> None:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.name in _JUNK:
                leave_out(path, "hidden")
                continue
            try:
                status = path.stat()
            except OSError:
                leave_out(path, "broken links")
                continue
            if stat.S_ISDIR(status.st_mode):
                here = (status.st_dev, status.st_ino)
                if here in above:
                    leave_out(path, "links to a folder around them")
                elif not os.access(path, os.R_OK | os.X_OK):
                    leave_out(path, "folders that cannot be listed")
                else:
                    walk(path, above | {here})
            elif path.suffix.lower() not in IMAGE_SUFFIXES:
                leave_out(path, "without the suffix of an image")
            elif not stat.S_ISREG(status.st_mode):
                leave_out(path, "that are no files")  # opening a pipe would wait for ever
            else:
                files.append(path)

    if root.is_dir():
        status = root.stat()
        walk(root, frozenset({(status.st_dev, status.st_ino)}))
    found = ImageFiles(
        root, tuple(sorted(files)), {reason: tuple(paths) for reason, paths in left_out.items()}
    )
    if not files:
        others = found.describe_left_out()
        raise MissingDataError(
            f"no {', '.join(IMAGE_SUFFIXES)} files below {root}"
            + (f"; found {others}" if others else "" if root.is_dir() else ": no such folder")
        )
    return found


@dataclass(frozen=True)
class Picture:
    """One image file as Pillow's `RGB` or `L`, and whether any of its pixels was transparent."""

    pixels: Image.Image
    transparent: bool


def read_picture(path: Path, *, channels: int = 3, background: Colour | None = None) -> Picture:
    """One image file, in colour or grey, 8 bits a channel.

    More than 8 bits are scaled down, which Pillow does for colours alone: of 16 bits the upper 8
    stay, and floats from 0 to 1 become 0 to 255, rounded. CMYK, palettes, bilevel images and the
    rest become what Pillow makes of them.

    Args:
        path: the file.
        channels: 3 for colour, 1 for grey.
        background: what transparent pixels are laid over, 0..255 each; None drops the
            transparency, as pytorch-fid and clean-fid do.

    Raises:
        MissingDataError: it is not a readable image.
    """
    from PIL import Image

    with _readable(str(path)), Image.open(path) as image:
        return _converted(image, channels, background)


def decode_picture(
    data: bytes, name: str, *, channels: int = 3, background: Colour | None = None
) -> Picture:
    """What `read_picture` makes of a file, from its bytes; `name` says in messages where they lay.

    Raises:
        MissingDataError: they are no readable image.
    """
    from PIL import Image

    with _readable(name), Image.open(io.BytesIO(data)) as image:
        return _converted(image, channels, background)


def _converted(image: Image.Image, channels: int, background: Colour | None) -> Picture:
    from PIL import Image

    mode = "RGB" if channels == 3 else "L"
    deep = _eight_bits(image)
    if deep is not None:
        colours, alpha = Image.fromarray(deep[0]), Image.fromarray(deep[1])
    elif _may_be_transparent(image):
        image = image.convert("RGBA")
        colours, alpha = image.convert("RGB"), image.getchannel("A")
    else:
        return Picture(image.convert(mode), transparent=False)
    transparent = alpha.getextrema() != (255, 255)
    if transparent and background is not None:
        below = Image.new("RGB", image.size, background)
        colours = Image.composite(colours.convert("RGB"), below, alpha)
    return Picture(colours.convert(mode), transparent)


def _may_be_transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _eight_bits(
    image: Image.Image,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None:
    """Grey `(h, w)` and alpha of an image with more than 8 bits; None if it has 8.

    Raises:
        ValueError: the values have no scale of their own.
    """
    if image.mode == "F":
        values = np.array(image)
        if not (values.min() >= 0 and values.max() <= 1):  # a NaN is neither
            raise ValueError(
                f"floats from {values.min():g} to {values.max():g}, which should be from 0 to 1"
            )
        return (values * 255).round().astype(np.uint8), np.full(values.shape, 255, np.uint8)
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return None
    values = np.array(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"integers from {values.min()} to {values.max()}, which should be from 0 to 65535"
        )
    clear = image.info.get("transparency")
    opaque = np.ones(values.shape, bool) if clear is None else values != clear
    bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]  # BitsPerSample, 12 in some TIFF files
    return (values >> (4 if bits == 12 else 8)).astype(np.uint8), (opaque * 255).astype(np.uint8)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever Pillow raises inside becomes an error that names the file.

    Its readers of damaged files raise nearly anything: struct.error, IndexError, EOFError.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise MissingDataError(
            f"{name}: not a readable image ({_reason(error)}); remove or replace it"
        ) from error


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "in no format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class Inspected:
    """What one look at a file tells.

    Attributes:
        sha256: digest of its bytes.
        problem: why it cannot be read as an image, or None.
        transparent: whether any of its pixels is transparent.
    """

    sha256: str
    problem: str | None = None
    transparent: bool = False


def inspect_images(
    files: Sequence[Path], size: int, advance: Callable[[int], None] = lambda n: None
) -> dict[Path, Inspected]:
    """Read every file completely: its content and whether it is an image.

    A JPEG file is only decoded at the resolution that `size` pixels need. `advance(n)` is called
    when n more files are done.
    """
    looks = _for_each(partial(_inspect, size=size), files, advance)
    return dict(zip(files, looks, strict=True))


def _inspect(file: Path, size: int) -> Inspected:
    from PIL import Image

    digest = ""
    try:
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (size, size))
            return Inspected(digest, transparent=_converted(image, 3, None).transparent)
    except MemoryError:
        raise
    except Exception as error:  # as in _readable
        return Inspected(digest, _reason(error))


def content_digests(
    files: Sequence[Path], advance: Callable[[int], None] = lambda n: None
) -> list[str]:
    """The sha256 of every file's bytes, in order. `advance(n)` is called when n more are done.

    Raises:
        MissingDataError: a file cannot be read.
    """

    def digest(file: Path) -> str:
        try:
            return hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise MissingDataError(f"{file}: cannot be read ({error.strerror})") from error

    return _for_each(digest, files, advance)


def _for_each(
    call: Callable[[Path], Value], files: Sequence[Path], advance: Callable[[int], None]
) -> list[Value]:
    results = []
    # Pillow and hashlib work without the interpreter lock.
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for value in pool.map(call, files):
            results.append(value)
            advance(1)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
    return results


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, from its header.

    Raises:
        MissingDataError: it is not a readable image.
    """
    from PIL import Image

    with _readable(str(path)), Image.open(path) as image:
        return image.height, image.width


def parse_colour(text: str) -> Colour:
    """A colour by its name in CSS or as `#rrggbb`, as red, green and blue from 0 to 255.

    Raises:
        InvalidValueError: it is neither.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *alpha = ImageColor.getrgb(text)
    except ValueError:
        alpha = [0]
    if alpha:
        raise InvalidValueError(
            f"must be a colour, such as white, black or #808080; got {text!r}",
            setting="background",
        )
    return red, green, blue
