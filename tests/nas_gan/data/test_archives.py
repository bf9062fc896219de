import struct
from pathlib import Path

import pytest
from picture_archives import GREEN, RED, crossfire, font, png, record

from nas_gan.data.archives import read_colour_font, read_crossfire
from nas_gan.errors import MissingDataError


def test_pictures_of_an_archive_come_in_its_order_with_their_sizes(tmp_path):
    path = tmp_path / "crossfire.base"
    path.write_bytes(crossfire(png(RED), png(GREEN, (64, 16))))
    found = read_crossfire(path)
    assert [picture.data for picture in found] == [png(RED), png(GREEN, (64, 16))]
    assert [picture.size for picture in found] == [(32, 32), (16, 64)]
    assert found[0].name == "crossfire.base: ./arch/0 x.111"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no picture"),
        (b"no archive", "byte 0 begins no picture"),
        (crossfire(png(RED)) + b"IMAGE x y\n", "begins no picture"),
        (crossfire(png(RED))[:-1], "is cut short or no PNG"),
        (b"IMAGE 3 name\nabc", "name is cut short or no PNG"),
        (b"IMAGE " + b"9" * 900 + b" name\nabc", "cut short"),
        (b"IMAGE 3 " + b"n" * 5000, "begins no picture"),
    ],
)
def test_a_damaged_archive_is_one_line_that_names_it(content, message, tmp_path):
    path = tmp_path / "crossfire.base"
    path.write_bytes(content)
    with pytest.raises(MissingDataError, match=message) as caught:
        read_crossfire(path)
    assert "crossfire.base" in str(caught.value)


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize(("image_format", "metrics"), [(17, 5), (18, 8), (19, 0)])
def test_bitmaps_of_a_font_are_found_by_every_kind_of_index(kind, image_format, metrics, tmp_path):
    path = tmp_path / "font.ttf"
    records = [record(png(RED), metrics), b"", record(png(GREEN), metrics)]
    path.write_bytes(font(records, kind=kind, image_format=image_format))
    found = read_colour_font(path)
    assert [picture.data for picture in found] == [png(RED), png(GREEN)]
    third = 9 if kind == 4 else 7
    assert [picture.name for picture in found] == ["font.ttf: glyph 5", f"font.ttf: glyph {third}"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a font at all",
        font([], tables={"glyf": b"abc"}),
        font([record(png(RED))], kind=2),
        font([record(png(RED))], image_format=1),
        font([record(png(RED))[:-1]]),
        font([record(b"abc")]),
        font([b"ab"]),
        font([record(png(RED))])[:120],
        font([], tables={"CBLC": struct.pack(">HHI", 3, 0, 2**32 - 1), "CBDT": b""}),
    ],
)
def test_a_file_that_is_no_colour_font_is_one_line(content, tmp_path):
    path = tmp_path / "font.ttf"
    path.write_bytes(content)
    with pytest.raises(MissingDataError, match=r"font\.ttf: not a font with colour bitmaps"):
        read_colour_font(path)


def test_a_missing_archive_is_missing_data(tmp_path):
    with pytest.raises(MissingDataError, match="none"):
        read_crossfire(tmp_path / "none")
    assert not Path("none").exists()
