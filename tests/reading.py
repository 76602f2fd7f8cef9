"""What must hold of any conversation and any file that the guard reads, whatever they are made of."""

import base64
from io import BytesIO

from PIL import Image

from langchain_vlmguard import UnreadableContentError
from langchain_vlmguard.content.checking import check_frames
from langchain_vlmguard.content.messages import is_read, read_turn
from langchain_vlmguard.verdict.limits import ImageLimits
from tests.pictures import png

EVERYTHING = ImageLimits(max_bytes=100_000, max_pixels=100_000, frames="all", heif=True)
FILES = [
    png(size=(24, 24)),
    png((9, 9, 9, 99), mode="RGBA"),
    png(3, mode="P"),
    *(png(size=(24, 24), fmt=fmt) for fmt in ("JPEG", "GIF", "WEBP", "BMP", "TIFF")),
    png("white", fmt="GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "black")]),
]


def conversation_is_read(conversation):
    """Read a conversation: what the model gets is text and pictures that were checked, byte for byte."""
    turn = read_turn(conversation)
    assert all(map(is_read, turn.messages))
    checked = {picture.picture.sha256 for picture in (*turn.pictures, *turn.earlier)}
    for one in turn.messages:
        for block in one.content if isinstance(one.content, list) else []:
            if isinstance(block, dict) and block["type"] == "image":
                data = base64.b64decode(block["base64"])
                assert Image.open(BytesIO(data)).format in ("PNG", "JPEG")
                assert check_frames(data, ImageLimits())[0].sha256 in checked
    return turn


def file_is_checked_or_refused(data):
    """Check a file: either our error, which says something, or frames that anyone reads alike."""
    try:
        frames = check_frames(data, EVERYTHING)
    except UnreadableContentError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
        frames = ()
    for frame in frames:
        with Image.open(BytesIO(frame.data)) as picture:
            picture.load()
            assert picture.size == frame.size
            assert picture.mode in {"PNG": ("RGB", "L", "P", "1"), "JPEG": ("RGB", "L")}[picture.format]
            assert not picture.has_transparency_data
            assert not {"exif", "xmp", "icc_profile", "comment"} & picture.info.keys()
        assert check_frames(frame.data, EVERYTHING)[0].open().tobytes() == frame.open().tobytes()
    return frames
