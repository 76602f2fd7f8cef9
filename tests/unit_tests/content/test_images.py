import struct
import zlib

import pytest
from PIL import Image

from langchain_vlmguard.content.images import ImageLimits, check_picture, holds_picture
from langchain_vlmguard.errors import UnreadableContentError
from tests.pictures import b64, data_uri, png


def bomb(width, height):
    """A small PNG file that claims to be huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(size):
    with pytest.raises(UnreadableContentError, match="pixels"):
        check_picture(bomb(*size), ImageLimits())


def test_limits_name_their_number():
    with pytest.raises(UnreadableContentError, match="larger than 10 bytes"):
        check_picture(png(), ImageLimits(max_bytes=10))
    with pytest.raises(UnreadableContentError, match="8 x 8 pixels, more than 63"):
        check_picture(png(), ImageLimits(max_pixels=63))


def test_plain_pictures_are_passed_on_as_they_came():
    for fmt, mime in (("PNG", "image/png"), ("JPEG", "image/jpeg")):
        data = png(fmt=fmt)
        checked = check_picture(data, ImageLimits())
        assert (checked.data, checked.mime_type, checked.size) == (data, mime, (8, 8))


@pytest.mark.parametrize("fmt", ["WEBP", "BMP", "GIF"])
def test_other_formats_are_passed_on_as_png(fmt):
    checked = check_picture(png(fmt=fmt), ImageLimits())
    assert checked.mime_type == "image/png"
    assert checked.data.startswith(b"\x89PNG")


def test_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    checked = check_picture(png(size=(8, 4), fmt="JPEG", exif=exif), ImageLimits())
    assert checked.size == (4, 8)
    assert checked.mime_type == "image/png"


def test_of_a_phones_multi_view_photo_only_the_judged_view_is_passed_on():
    photo = png("red", fmt="MPO", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    checked = check_picture(photo, ImageLimits())
    assert checked.mime_type == "image/png"
    assert b"MPF" in photo
    assert b"MPF" not in checked.data


@pytest.mark.parametrize(
    "value",
    [
        {"a": [{"type": "image"}]},
        {"a": {"mime_type": "image/png"}},
        [(data_uri().upper(),)],
        b64(),
        png(fmt="JPEG"),
        Image.new("RGB", (1, 1)),
    ],
    ids=["block", "mime type", "data URI", "base64", "bytes", "PIL"],
)
def test_pictures_are_found_anywhere(value):
    assert holds_picture(value)


@pytest.mark.parametrize("value", [None, {}, "an image", {"type": "text", "text": "x"}, b"abc", [[[1.5]]]])
def test_no_picture_is_found_where_there_is_none(value):
    assert not holds_picture(value)


def test_a_value_too_large_to_search_counts_as_holding_a_picture():
    assert not holds_picture([0] * 9, most_parts=10)
    assert holds_picture([0] * 10, most_parts=10)
