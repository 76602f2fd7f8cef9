"""What is met again is not worked on again: a picture's text is decoded, hashed and looked at once."""

import base64
import hashlib
import threading
from io import BytesIO

import pytest
from langchain_core.messages import HumanMessage
from PIL import Image

from langchain_vlmguard import UnreadableContentError
from langchain_vlmguard.content import checking
from langchain_vlmguard.content.checking import bytes_of, check_frames, check_picture, open_picture, was_checked
from langchain_vlmguard.content.messages import is_read, read_turn
from langchain_vlmguard.content.recent import Recent
from langchain_vlmguard.verdict.limits import ImageLimits
from tests.pictures import b64, png

EDGE = 1_600


@pytest.fixture(scope="module")
def large():
    """A PNG of some megabytes, as base64; not one byte of it can be saved."""
    import random

    noise = Image.frombytes("RGB", (EDGE, EDGE), random.Random(0).randbytes(3 * EDGE * EDGE))
    file = BytesIO()
    noise.save(file, "PNG", compress_level=0, comment="not handed on")
    assert len(file.getvalue()) > 7_000_000
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def work(monkeypatch):
    """The sizes of all that is decoded from base64, hashed, or looked at as a picture from here on."""
    done = []

    def counted(module, name):
        real = getattr(module, name)

        def counting(data=b"", *args, **kwargs):
            done.append(len(data))
            return real(data, *args, **kwargs)

        monkeypatch.setattr(module, name, counting)

    counted(base64, "b64decode")
    counted(base64, "b64encode")
    counted(hashlib, "sha256")
    counted(checking, "decode_frames")
    return done


def asked(text):
    return [HumanMessage([{"type": "image", "base64": text, "mime_type": "image/png"}, {"type": "text", "text": "hi"}])]


def test_a_picture_that_is_read_again_costs_nothing(large, work):
    first = read_turn(asked(large))
    assert max(work) > 7_000_000
    work.clear()
    again = read_turn(asked(large))
    assert work == []
    assert again.pictures == first.pictures


def test_a_block_that_was_handed_on_is_known_at_once(large, work):
    turn = read_turn(asked(large))
    work.clear()
    assert all(is_read(message) for message in turn.messages)
    assert [message.content for message in read_turn(turn.messages).messages] == [m.content for m in turn.messages]
    assert turn.pictures[0].picture.block() == turn.pictures[0].picture.block()
    assert turn.pictures[0].picture.sha256
    assert turn.pictures[0].picture.sha256
    assert work == [len(turn.pictures[0].picture.data)]  # its SHA-256, once


def test_a_copy_of_the_text_is_known_too(large, work):
    [handed_on] = read_turn(asked(large)).messages
    work.clear()
    copy = handed_on.content[0]["base64"].encode().decode()
    assert was_checked(copy)
    assert open_picture({"base64": copy}).size == (EDGE, EDGE)
    assert work == []


def test_what_was_handed_on_is_known_after_the_text_itself_was_forgotten(monkeypatch):
    picture = check_picture(png("teal"), ImageLimits())
    monkeypatch.setattr(checking, "_TEXTS", Recent(10_000))
    assert was_checked(picture.encoded)
    assert open_picture(picture.block()).size == picture.size
    bytes_of(picture.encoded, ImageLimits())
    assert was_checked(picture.encoded)


def test_what_came_is_not_what_was_handed_on(work):
    photo = b64(png("navy", fmt="JPEG", comment=b"obey"))
    assert not was_checked(photo)
    read_turn(asked(photo))
    work.clear()
    assert not was_checked(photo)
    assert work == []


@pytest.mark.parametrize("text", ["", "bm8=", "no base64 at all", "\udcff", "é"])
def test_no_text_is_taken_for_a_picture(text):
    assert not was_checked(text)


def test_a_remembered_picture_is_still_held_against_the_limits(large):
    read_turn(asked(large))
    for limits, reason in (
        (ImageLimits(max_bytes=1_000), "larger than 1,000 bytes"),
        (ImageLimits(max_pixels=9), "more than 9"),
    ):
        with pytest.raises(UnreadableContentError, match=reason):
            check_frames(bytes_of(large, limits), limits)


def test_limits_are_keys_and_cannot_be_misspelt():
    assert len({ImageLimits(), ImageLimits(), ImageLimits(frames="all")}) == 2
    with pytest.raises(ValueError, match="max_byte"):
        ImageLimits(max_byte=3)


def test_what_is_remembered_is_bounded():
    recent = Recent(1_000)
    for at in range(50):
        recent.put(at, at, size=100)
        assert recent.weight <= 1_000
    assert [at for at in range(50) if at in recent] == [45, 46, 47, 48, 49]
    recent.put("large", 0, size=2_000)
    assert "large" not in recent
    assert 49 in recent
    recent.clear()
    assert recent.weight == 0


def test_many_threads_may_read_at_once(large):
    found = []
    threads = [threading.Thread(target=lambda: found.append(read_turn(asked(large)).pictures[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.picture.sha256 for one in found}) == 1
