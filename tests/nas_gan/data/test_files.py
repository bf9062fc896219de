import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas_gan.data.files import (
    content_digests,
    inspect_images,
    list_images,
    parse_colour,
    read_picture,
)
from nas_gan.data.images import FileImages, Labels, read_image
from nas_gan.data.loading import load_dataset
from nas_gan.errors import InvalidValueError, MissingDataError

# Five values of 16 bits, and their upper bytes.
DEEP, UPPER = [0, 255, 256, 32768, 65535], [0, 0, 1, 128, 255]


def png(colour_type, bits, rows, width, transparent=b""):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    trns = chunk(b"tRNS", transparent) if transparent else b""
    chunks = chunk(b"IHDR", header) + trns + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(pixels, bits, samples, photometric):
    """One strip without compression, little endian."""
    entries = [
        (256, 3, 1, pixels.shape[1]), (257, 3, 1, pixels.shape[0]), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, samples),
        (278, 3, 1, pixels.shape[0]), (279, 4, 1, pixels.nbytes),
    ]  # fmt: skip
    end = 8 + pixels.nbytes
    if samples == 1:
        entries.append((258, 3, 1, bits))
    else:  # the three numbers do not fit into the entry
        entries.append((258, 3, samples, end))
    extra = struct.pack(f"<{samples}H", *[bits] * samples) if samples > 1 else b""
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in sorted(entries):
        directory += struct.pack("<HHII", tag, kind, count, value)
    start = struct.pack("<2sHI", b"II", 42, end + len(extra))
    return start + pixels.tobytes() + extra + directory + b"\0\0\0\0"


def big(values):
    return np.array(values, dtype=">u2").tobytes()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, content):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def save(path, colour=(9, 9, 9), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 4), colour).save(path)
    return path


def pixels_of(path, **how):
    return np.array(read_picture(path, **how).pixels).tolist()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("grey.png", lambda: png(0, 16, [big(DEEP)], 5)),
        ("colour.png", lambda: png(2, 16, [big(np.repeat(DEEP, 3))], 5)),
        ("grey.pgm", lambda: b"P5\n5 1\n65535\n" + big(DEEP)),
        ("grey.tif", lambda: tiff(np.array([DEEP], dtype="<u2"), 16, 1, 1)),
        ("colour.tif", lambda: tiff(np.array([DEEP] * 3, "<u2").T[None].copy(), 16, 3, 2)),
    ],
)
def test_sixteen_bits_keep_their_upper_eight(here, name, content):
    path = write(name, content())
    assert pixels_of(path) == [[[level] * 3 for level in UPPER]]
    assert pixels_of(path, channels=1) == [UPPER]


def test_a_smaller_range_fills_eight_bits_too(here):
    ten = write("ten.pgm", b"P5\n3 1\n1023\n" + big([0, 512, 1023]))
    assert pixels_of(ten, channels=1) == [[0, 128, 255]]
    packed = np.array([[0xFF, 0xF8, 0x00]], dtype=np.uint8)  # two values of 12 bits
    path = tiff(packed, 12, 1, 1)
    path = path.replace(struct.pack("<HHII", 256, 3, 1, 3), struct.pack("<HHII", 256, 3, 1, 2))
    assert pixels_of(write("twelve.tif", path), channels=1) == [[255, 128]]


def test_floats_from_0_to_1_are_scaled_and_others_refused(here):
    Image.fromarray(np.array([[0, 0.25, 1]], np.float32)).save("unit.tif")
    assert pixels_of(Path("unit.tif"), channels=1) == [[0, 64, 255]]
    for name, values in (("bytes", [0, 200]), ("signed", [-1, 1]), ("nan", [0, np.nan])):
        Image.fromarray(np.array([values], np.float32)).save(f"{name}.tif")
        with pytest.raises(MissingDataError, match=rf"{name}\.tif: .*floats from .* from 0 to 1"):
            read_picture(Path(f"{name}.tif"))


def test_integers_of_32_bits_are_16_bits_or_refused(here):
    Image.fromarray(np.array([DEEP], np.int32)).save("fits.tif")
    assert pixels_of(Path("fits.tif"), channels=1) == [UPPER]
    Image.fromarray(np.array([[0, 65536]], np.int32)).save("more.tif")
    with pytest.raises(MissingDataError, match=r"integers from 0 to 65536, .* 65535"):
        read_picture(Path("more.tif"))


@pytest.mark.parametrize(
    ("mode", "colour", "suffix"),
    [("1", 1, "png"), ("L", 77, "pgm"), ("P", 1, "png"), ("CMYK", (10, 20, 30, 40), "tif"),
     ("LA", (200, 0), "png"), ("RGBA", (10, 20, 30, 0), "png"), ("RGB", (1, 2, 3), "ppm"),
     ("RGBA", (10, 20, 30, 99), "tiff"), ("CMYK", (10, 20, 30, 40), "jpg")],
)  # fmt: skip
def test_without_a_background_pixels_are_those_of_pytorch_fid(here, mode, colour, suffix):
    path = save(here / f"image.{suffix}", colour, mode)
    with Image.open(path) as image:
        theirs = np.array(image.convert("RGB"))  # what pytorch_fid.fid_score does
    np.testing.assert_array_equal(read_picture(path).pixels, theirs)


TRANSPARENT = {
    "la.png": lambda: png(4, 8, [bytes([0, 0, 0, 255])], 2),
    "rgba.png": lambda: png(6, 8, [bytes([0, 0, 0, 0, 0, 0, 0, 255])], 2),
    "la16.png": lambda: png(4, 16, [big([0, 0, 0, 65535])], 2),
    "grey8.png": lambda: png(0, 8, [bytes([1, 0])], 2, big([1])),
    "grey16.png": lambda: png(0, 16, [big([1, 0])], 2, big([1])),
    "rgb8.png": lambda: png(2, 8, [bytes([1, 1, 1, 0, 0, 0])], 2, big([1, 1, 1])),
}


@pytest.mark.parametrize("name", [*TRANSPARENT, "palette.png", "palette bytes.png"])
def test_transparent_pixels_show_the_background(here, name):
    if name.startswith("palette"):
        image = Image.new("P", (2, 1))
        image.putpalette([1, 1, 1, 0, 0, 0])
        image.putpixel((1, 0), 1)
        image.save(name, transparency=b"\x00" if "bytes" in name else 0)
    else:
        write(name, TRANSPARENT[name]())
    path = Path(name)
    assert read_picture(path).transparent
    assert np.max(pixels_of(path)) <= 1
    assert pixels_of(path, background=(255, 128, 0)) == [[[255, 128, 0], [0, 0, 0]]]
    assert pixels_of(path, background=(255, 255, 255), channels=1) == [[255, 0]]


def test_half_transparent_pixels_are_halfway(here):
    path = write("half.png", png(6, 8, [bytes([0, 0, 0, 128])], 1))
    assert pixels_of(path, background=(255, 255, 255)) == [[[127] * 3]]
    opaque = write("opaque.png", png(6, 8, [bytes([7, 7, 7, 255])], 1))
    assert not read_picture(opaque).transparent


def test_the_orientation_in_exif_data_is_not_applied(here):
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save("turned.png", exif=exif)
    assert pixels_of(Path("turned.png"), channels=1) == [[255, 0]]


def test_suffixes_are_those_of_pytorch_fid_in_any_case(here):
    from pytorch_fid.fid_score import IMAGE_EXTENSIONS

    names = sorted(f"{n}.{suffix}" for n, suffix in enumerate(sorted(IMAGE_EXTENSIONS)))
    names += [name.upper() for name in names] + ["x.JpEg"]
    for name in (*names, "x.gif", "x.png.txt", "png"):
        write(name, b"")
    found = list_images(here)
    assert sorted(path.name for path in found.files) == sorted(names)
    assert {path.name for path in found.left_out["without the suffix of an image"]} == {
        "x.gif",
        "x.png.txt",
        "png",
    }


def test_hidden_names_are_left_out_and_named(here):
    for name in ("a/1.png", ".ipynb_checkpoints/1-checkpoint.png", "a/._1.png", "a/.x/2.png",
                 "__MACOSX/a/._1.png", "a/@eaDir/1.png"):  # fmt: skip
        write(name, b"")
    found = list_images(here)
    assert [path.name for path in found.files] == ["1.png"]
    assert found.describe_left_out() == (
        "5 hidden (.ipynb_checkpoints, __MACOSX, a/._1.png, a/.x, a/@eaDir)"
    )
    assert len(list_images(here / "a" / ".x").files) == 1  # asked for by name


def test_linked_folders_are_followed_and_loops_are_cut(here):
    for name in ("set/a/1.png", "elsewhere/2.png"):
        write(name, b"")
    for link in ("b", "c"):
        Path("set", link).symlink_to(here / "elsewhere")
    Path("set/a/loop").symlink_to(here / "set")
    Path("elsewhere/self").symlink_to(here / "elsewhere")
    Path("set/a/3.png").symlink_to(here / "elsewhere" / "2.png")
    Path("set/a/4.png").symlink_to("nowhere")
    found = list_images(here / "set")
    names = [str(path.relative_to(here / "set")) for path in found.files]
    assert names == ["a/1.png", "a/3.png", "b/2.png", "c/2.png"]
    assert found.describe_left_out() == (
        "1 broken links (a/4.png), 3 links to a folder around them (a/loop, b/self, c/self)"
    )


def test_what_is_no_file_is_not_opened(here):
    write("1.png", b"")
    os.mkfifo("2.png")
    write("3.png/4.png", b"")
    found = list_images(here)
    assert [str(path.relative_to(here)) for path in found.files] == ["1.png", "3.png/4.png"]
    assert found.describe_left_out() == "1 that are no files (2.png)"


def test_a_folder_of_other_things_says_what_it_holds(here):
    write("notes.txt", b"")
    with pytest.raises(MissingDataError, match=r"found 1 without the suffix .*\(notes\.txt\)"):
        list_images(here)
    with pytest.raises(MissingDataError, match="no such folder"):
        list_images(here / "nowhere")


def test_whatever_pillow_raises_is_one_error_with_the_name(here):
    good = png(2, 8, [bytes(range(12))], 4)
    rng = np.random.default_rng(0)
    reads = 0
    for _ in range(300):
        damaged = bytearray(good)
        for place in rng.integers(8, len(good), 3):
            damaged[place] = rng.integers(256)
        path = write("damaged.png", bytes(damaged))
        try:
            read_picture(path)
            reads += 1
        except MissingDataError as error:
            assert str(error).startswith("damaged.png: not a readable image")  # noqa: PT017
    assert reads < 300


def test_an_inspection_tells_content_problem_and_transparency(here):
    files = [save(here / "a.png"), save(here / "b.png", (0, 0, 0, 9), "RGBA"), write("c.png", b"x")]
    done: list[int] = []
    looks = inspect_images(files, 4, done.append)
    assert [look.sha256 for look in looks.values()] == content_digests(files)
    assert [look.transparent for look in looks.values()] == [False, True, False]
    assert [look.problem for look in looks.values()] == [
        None,
        None,
        "in no format that Pillow knows",
    ]
    assert sum(done) == 3
    assert content_digests([files[0], *files[:2]]) == content_digests(files[:1]) + content_digests(
        files[:2]
    )


def test_other_pixels_under_the_same_name_size_and_time_are_other_data(here):
    path = save(here / "a" / "1.bmp", (1, 1, 1))
    before = path.stat()
    first = FileImages("x", [path], 4).digest
    assert FileImages("x", [path], 4).digest == first
    copy = write("b/2.bmp", path.read_bytes())
    assert FileImages("y", [copy], 4).digest == first
    save(path, (2, 2, 2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert FileImages("x", [path], 4).digest != first


def test_the_digest_tells_apart_how_images_are_read_and_of_which_class_they_are(here):
    files = [save(here / "1.png"), save(here / "2.png", (8, 8, 8))]
    ways: list[dict[str, Any]] = [{}, {"channels": 1}, {"fit": "stretch"}, {"background": "black"},
            {"labels": Labels(torch.tensor([0, 0]), 2)}, {"labels": Labels(torch.tensor([0, 1]), 2)}
            ]  # fmt: skip
    digests = [FileImages("x", files, 4, **way).digest for way in ways]
    digests += [FileImages("x", files, 8).digest, FileImages("x", files[::-1], 4).digest]
    assert len(set(digests)) == len(ways) + 2


def test_a_folder_is_read_once_for_its_digest(here, monkeypatch):
    files = [save(here / "d" / f"{n}.png", (n, n, n)) for n in range(3)]
    images = load_dataset("folder", size=4, root=here / "d")
    for file in files:
        file.unlink()
    assert images.digest != ""
    with pytest.raises(MissingDataError, match="cannot be read"):
        FileImages("x", files, 4).digest  # noqa: B018


def test_transparency_is_said_once_with_the_background(here, caplog):
    save(here / "d" / "1.png", (0, 0, 0, 0), "RGBA")
    save(here / "d" / "2.png")
    images = load_dataset("folder", size=4, root=here / "d", background="#00ff00")
    (record,) = caplog.records
    assert "1 of 2 images" in record.getMessage()
    assert "laid over #00ff00, the setting background: 1.png" in record.getMessage()
    assert images[torch.tensor([0])][0, :, 0, 0].tolist() == [0, 255, 0]
    assert read_image(here / "d" / "1.png", 4)[:, 0, 0].tolist() == [255, 255, 255]
    assert len(caplog.records) == 1


def test_a_background_is_a_colour(here):
    assert parse_colour("White") == (255, 255, 255)
    assert parse_colour("#010203") == (1, 2, 3)
    for text in ("", "witte", "#01020304", "1,2,3"):
        with pytest.raises(InvalidValueError, match=r"^background must be a colour"):
            parse_colour(text)


def test_what_is_left_out_of_a_folder_is_counted_and_named(here, caplog):
    save(here / "d" / "1.png")
    for name in ("d/.hidden.png", "d/notes.txt", "d/list.csv"):
        write(name, b"")
    load_dataset("folder", size=4, root=here / "d")
    (record,) = caplog.records
    expected = "1 hidden (.hidden.png), 2 without the suffix of an image (list.csv, notes.txt)"
    assert record.getMessage().endswith(f": {expected}")


def test_hidden_folders_are_no_classes(here):
    for name in ("a/1.png", "b/2.png", ".ipynb_checkpoints/3.png"):
        save(here / "d" / name)
    images = load_dataset("folder", size=4, root=here / "d", labelled=True, classes=2)
    assert len(images) == 2


def test_classes_that_do_not_fit_are_refused_before_any_image_is_read(here, monkeypatch):
    for name in ("a", "b"):
        save(here / "d" / name / "1.png")
    monkeypatch.setattr("nas_gan.data.loading.inspect_images", None)
    message = r"has 2 classes, the folders a, b; n_classes is 10"
    with pytest.raises(InvalidValueError, match=message):
        load_dataset("folder", size=4, root=here / "d", labelled=True, classes=10)
    save(here / "d" / "stray.png")
    message = r"1 images beside the folders of its classes \(stray\.png\); move each into"
    with pytest.raises(InvalidValueError, match=message):
        load_dataset("folder", size=4, root=here / "d", labelled=True, classes=2)


def test_a_class_without_a_readable_image_is_named(here):
    save(here / "d" / "a" / "1.png")
    write("d/b/2.png", b"x")
    with pytest.raises(InvalidValueError, match=r"class b of .* no readable image, as .*2\.png"):
        load_dataset("folder", size=4, root=here / "d", labelled=True, classes=2)


def test_other_data_sets_are_counted_too():
    with pytest.raises(InvalidValueError, match="synthetic has 10 classes; n_classes is 3"):
        load_dataset("synthetic", size=8, labelled=True, classes=3)
