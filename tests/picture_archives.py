"""Tiny archives of pictures, as the packages of the data sets have large ones."""

import io
import struct

from PIL import Image

RED, GREEN = (255, 0, 0, 255), (0, 255, 0, 128)


def png(colour, size=(32, 32)):
    file = io.BytesIO()
    Image.new("RGBA", size, colour).save(file, "PNG")
    return file.getvalue()


def crossfire(*pictures):
    return b"".join(
        f"IMAGE {len(data)} ./arch/{n} x.111\n".encode() + data for n, data in enumerate(pictures)
    )


def font(records, *, kind=1, image_format=17, tables=None):
    """An sfnt file with one strike, whose glyphs from 5 on have these records."""
    offsets, body = [0], b""
    for record in records:
        body += record
        offsets.append(len(body))
    head = struct.pack(">HHI", kind, image_format, 4)
    if kind == 4:
        pairs = [(5 + 2 * n, low) for n, low in enumerate(offsets)]
        subtable = head + struct.pack(">I", len(records))
        subtable += b"".join(struct.pack(">HH", *pair) for pair in pairs)
    else:
        subtable = head + struct.pack(f">{len(offsets)}{'I' if kind == 1 else 'H'}", *offsets)
    array = struct.pack(">HHI", 5, 5 + len(records) - 1, 8)
    size = struct.pack(">IIII", 56, 8 + len(subtable), 1, 0).ljust(48, b"\0")
    index = struct.pack(">HHI", 3, 0, 1) + size + array + subtable
    found = {"CBLC": index, "CBDT": struct.pack(">HH", 3, 0) + body} if tables is None else tables
    out, at = struct.pack(">IHHHH", 0x10000, len(found), 0, 0, 0), 12 + 16 * len(found)
    for name, data in found.items():
        out += struct.pack(">4sIII", name.encode(), 0, at, len(data))
        at += len(data)
    return out + b"".join(found.values())


def record(data, metrics=5):
    return bytes(metrics) + struct.pack(">I", len(data)) + data
