"""Photographs as phones and the web write them: read, upright, and handed on no larger than they came."""

import random
from io import BytesIO

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from PIL import Image, ImageCms, ImageOps

from langchain_vlmguard.content.checking import check_frames, check_picture
from langchain_vlmguard.content.messages import read_for_model, read_turn
from langchain_vlmguard.errors import UnreadableContentError
from langchain_vlmguard.verdict.limits import ImageLimits, ReadLimits
from tests.pictures import png


def photo(width=1600, height=1200):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (height // 40, width // 40, 3), dtype=np.uint8))
    noisy = np.asarray(smooth.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray(np.clip(noisy + rng.normal(0, 6, noisy.shape), 0, 255).astype(np.uint8))


PHOTO = photo()
TURNED = Image.Exif()
TURNED[0x0112] = 6


def file(picture=PHOTO, fmt="JPEG", **options):
    buffer = BytesIO()
    picture.save(buffer, fmt, **options)
    return buffer.getvalue()


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
AS_THEY_COME = {
    "plain": file(quality=80),
    "turned": file(quality=75, exif=TURNED),
    "turned, best": file(quality=97, subsampling=0, exif=TURNED),
    "turned, progressive": file(quality=80, progressive=True, exif=TURNED),
    "turned, optimised": file(quality=80, optimize=True, exif=TURNED),
    "profile": file(quality=85, icc_profile=SRGB),
    "grey": file(PHOTO.convert("L"), quality=80),
    "CMYK": file(PHOTO.convert("CMYK"), quality=80),
    "several views": file(fmt="MPO", quality=80, save_all=True, append_images=[PHOTO.rotate(180)]),
    "WebP": file(fmt="WEBP", quality=80),
    "WebP, turned": file(fmt="WEBP", quality=70, exif=TURNED),
}


@pytest.mark.parametrize("name", AS_THEY_COME)
def test_nothing_is_handed_on_larger_than_it_came(name):
    data = AS_THEY_COME[name]
    checked = check_picture(data, ImageLimits())
    assert len(checked.data) <= len(data)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)).convert("RGB"))
    assert checked.size == ((1200, 1600) if "turned" in name else (1600, 1200))
    off = np.abs(np.asarray(checked.open(), dtype=int) - np.asarray(_upright(data), dtype=int)).mean()
    assert off < 6, upright


def _upright(data):
    with Image.open(BytesIO(data)) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB"])
def test_what_every_viewer_shows_alike_keeps_its_bytes(mode):
    picture = PHOTO.resize((320, 240)).convert(mode)
    data = file(picture, "PNG", optimize=True)
    assert check_picture(data, ImageLimits()).data == data


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_an_opened_picture_is_as_upright_as_its_file(fmt):
    data = file(PHOTO.resize((64, 32)), fmt, exif=TURNED)
    loaded, lazy = Image.open(BytesIO(data)), Image.open(BytesIO(data))
    loaded.load()
    for given in (data, lazy, loaded):
        (placed,) = read_turn([HumanMessage([{"type": "image", "image": given}])]).pictures
        assert placed.picture.size == (32, 64)


def test_what_lies_behind_a_phones_photograph_is_dropped():
    small, rng = file(PHOTO.resize((64, 48))), random.Random(2)
    film = (
        b"\x00\x00\x00\x18ftypmp42" + rng.randbytes(200_000) + b"\xff\xd8\xffPK\x03\x04BM<svg" + rng.randbytes(200_000)
    )
    for tail in (
        b"\x00\x00\x30\x0aMotionPhoto_Data" + film + b"SEFT",
        film,
        small,
        b"\x00\x01Dual_Shot" + small + b"SEFT",
    ):
        assert check_picture(small + tail, ImageLimits()).data == small
    for tail in (b"x" * 500 + b"PK\x05\x06" + bytes(18), b"<?php", png()):
        with pytest.raises(UnreadableContentError, match="at once"):
            check_picture(small + tail, ImageLimits())


def test_what_the_guard_let_through_the_model_behind_it_accepts():
    large = file(photo(2_000, 1_500), quality=95)
    block = {"type": "image_url", "image_url": {"url": _uri(large)}}
    small = ReadLimits(image=ImageLimits(max_bytes=10_000, max_pixels=10_000))
    with pytest.raises(UnreadableContentError):
        read_for_model([HumanMessage([block])], small)
    turn = read_turn([HumanMessage([block])])
    for messages in (turn.messages, turn.for_model):
        assert read_for_model(messages, small)[0].content[0]["mime_type"] == "image/jpeg"


def _uri(data):
    import base64

    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def test_a_picture_that_grows_past_the_limit_is_refused_with_the_reason():
    noise = Image.effect_noise((600, 600), 90).convert("RGB")
    data = file(noise, "WEBP", quality=1)
    with pytest.raises(UnreadableContentError, match="in the form that a model gets"):
        check_frames(data, ImageLimits(max_bytes=len(data)))
