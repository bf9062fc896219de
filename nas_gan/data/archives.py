"""Pictures that lie in one file of a package: a game's archive, a font of colour bitmaps.

Only the containers are read here; every picture in them is a PNG file of its own. Nothing is
trusted: what does not fit the file it lies in is an error that names it.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nas_gan.errors import InvalidValueError, MissingDataError
from nas_gan.reading import read_bytes

# Fifty times the archive of Crossfire, and twelve times the font of Noto.
MAX_ARCHIVE_BYTES = 128 << 20
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class StoredPicture:
    """A picture as it lies in an archive.

    Attributes:
        name: where it is from, for messages.
        data: its bytes, a PNG file.
    """

    name: str
    data: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the head of the PNG file.

        Raises:
            MissingDataError: it is cut short.
        """
        try:
            width, height = struct.unpack_from(">II", self.data, 16)
        except struct.error as error:
            raise MissingDataError(f"{self.name}: a PNG file cut short") from error
        return height, width


def read_crossfire(path: Path) -> list[StoredPicture]:
    """The pictures in an archive of the game Crossfire, such as `crossfire.base`, in its order.

    Each is a line `IMAGE BYTES NAME` and that many bytes. The index beside the archive repeats
    places and sizes, and adds nothing that is needed here.

    Raises:
        MissingDataError: the file is not there, is no such archive, or is damaged.
    """
    data = _read(path)
    found, at = [], 0
    while at < len(data):
        end = data.find(b"\n", at, at + 1024)
        words = data[at:end].split(b" ", 2) if end > 0 else []
        if len(words) != 3 or words[0] != b"IMAGE" or not words[1].isdigit():
            raise MissingDataError(
                f"{path}: byte {at} begins no picture of a Crossfire archive; get it again"
            )
        size = int(words[1][:12])
        picture = data[end + 1 : end + 1 + size]
        name = f"{path.name}: {words[2].decode('latin-1')}"
        if len(picture) != size or not picture.startswith(PNG):
            raise MissingDataError(f"{name} is cut short or no PNG file; get {path} again")
        found.append(StoredPicture(name, picture))
        at = end + 1 + size
    if not found:
        raise MissingDataError(f"{path}: holds no picture; get it again")
    return found


def read_colour_font(path: Path) -> list[StoredPicture]:
    """The bitmaps of a font with the tables CBLC and CBDT, by the number of their glyph.

    Raises:
        MissingDataError: the file is not there, is no such font, or is damaged.
    """
    data = _read(path)
    try:
        tables = _tables(data)
        index, pixels = tables["CBLC"], tables["CBDT"]
        found = [
            StoredPicture(f"{path.name}: glyph {glyph}", _png(record, kind))
            for glyph, kind, record in sorted(_records(index, pixels), key=lambda item: item[0])
        ]
    except (struct.error, KeyError, ValueError) as error:
        raise MissingDataError(
            f"{path}: not a font with colour bitmaps in its tables CBLC and CBDT, or damaged "
            f"({error})"
        ) from error
    if not found:
        raise MissingDataError(f"{path}: its table CBDT holds no picture")
    return found


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_ARCHIVE_BYTES)
    except InvalidValueError as error:
        raise MissingDataError(str(error)) from error


def _tables(font: bytes) -> dict[str, bytes]:
    """The tables of an sfnt file by name (OpenType 1.9, "Organization of an OpenType Font")."""
    (count,) = struct.unpack_from(">H", font, 4)
    found = {}
    for n in range(count):
        tag, _, offset, length = struct.unpack_from(">4sIII", font, 12 + 16 * n)
        found[tag.decode("latin-1")] = font[offset : offset + length]
    return found


def _records(index: bytes, pixels: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Every glyph of CBLC as its number, the format of its record, and the record in CBDT."""
    (n_sizes,) = struct.unpack_from(">I", index, 4)
    for size in range(n_sizes):
        array, _, n_subtables = struct.unpack_from(">III", index, 8 + 48 * size)
        for n in range(n_subtables):
            first, last, beyond = struct.unpack_from(">HHI", index, array + 8 * n)
            at = array + beyond
            kind, image_format, start = struct.unpack_from(">HHI", index, at)
            for glyph, low, high in _offsets(index, at + 8, kind, first, last):
                if high > low:  # a glyph without a picture has a record without bytes
                    yield glyph, image_format, pixels[start + low : start + high]


def _offsets(
    index: bytes, at: int, kind: int, first: int, last: int
) -> Iterator[tuple[int, int, int]]:
    """Glyphs of a subtable, with the first byte of their record and the one behind its last."""
    count = last - first + 1
    if kind in (1, 3):  # an offset for each glyph, and one more
        offsets = struct.unpack_from(f">{count + 1}{'I' if kind == 1 else 'H'}", index, at)
        yield from zip(range(first, last + 1), offsets, offsets[1:], strict=False)
    elif kind == 4:  # pairs of a glyph and its offset, and one more
        (count,) = struct.unpack_from(">I", index, at)
        if count > len(index):
            raise ValueError(f"a subtable of {count} glyphs")
        pairs = list(struct.iter_unpack(">HH", index[at + 4 : at + 8 + 4 * count]))
        for (glyph, low), (_, high) in itertools.pairwise(pairs):
            yield glyph, low, high
    else:
        raise ValueError(f"subtables of format {kind} are not read")


# Bytes of metrics before the length of the PNG file, by the format of a record.
_METRICS = {17: 5, 18: 8, 19: 0}


def _png(record: bytes, kind: int) -> bytes:
    if kind not in _METRICS:
        raise ValueError(f"records of format {kind} hold no PNG file")
    start = _METRICS[kind] + 4
    (length,) = struct.unpack_from(">I", record, start - 4)
    picture = record[start : start + length]
    if len(picture) != length or not picture.startswith(PNG):
        raise ValueError("a record that is cut short or no PNG file")
    return picture
