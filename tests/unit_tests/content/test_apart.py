import sys
import time

import pytest
from langchain_core.messages import HumanMessage

from langchain_vlmguard import GuardPolicy, UnreadableContentError, create_vlm_guard
from langchain_vlmguard.content.apart import decode_frames_apart
from langchain_vlmguard.content.checking import check_frames
from langchain_vlmguard.verdict.limits import ImageLimits
from tests.chat_models import ScriptedModel
from tests.hostile_messages import gif, made_png
from tests.pictures import b64, png
from tests.rewrites import Judge

PICTURES = {
    "plain": png(size=(30, 20)),
    "transparent, with a comment": png((9, 9, 9, 9), mode="RGBA", size=(20, 20)),
    "animated": gif(2),
    "commented": png(fmt="JPEG", comment=b"a comment here"),
}


@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES)
def test_a_process_of_its_own_finds_the_same(data):
    limits = ImageLimits(frames="all")
    assert decode_frames_apart(data, limits) == check_frames(data, limits)


def test_what_is_refused_is_refused_with_the_same_reason():
    with pytest.raises(UnreadableContentError, match="1000 x 1000 pixels, more than 99"):
        decode_frames_apart(made_png(1_000, 1_000), ImageLimits(max_pixels=99))


@pytest.mark.skipif(sys.platform == "win32", reason="memory cannot be bounded there")
def test_a_picture_that_takes_too_much_memory_hurts_nobody_else():
    large = made_png(9_000, 9_000, data=bytes(9_000 * 3 + 1) * 9_000)
    assert len(large) < 300_000
    with pytest.raises(UnreadableContentError, match="more than 300,000,000 bytes of memory"):
        decode_frames_apart(large, ImageLimits(max_pixels=10**9, max_memory=300_000_000))


def test_a_picture_that_takes_too_long_is_given_up():
    started = time.perf_counter()
    with pytest.raises(UnreadableContentError, match=r"within 0\.01 seconds"):
        decode_frames_apart(png(), ImageLimits(seconds=0.01))
    assert time.perf_counter() - started < 5


def test_through_the_guard():
    model = ScriptedModel()
    graph = create_vlm_guard(model, policy=GuardPolicy(isolate_decoding=True), answer_judge=Judge(0.0)).compile()
    block = {"type": "image", "base64": b64(png((3, 2, 1), size=(21, 9))), "mime_type": "image/png"}
    assert graph.invoke({"messages": [HumanMessage([block])]})["verdict"]["action"] == "allow"
    assert model.seen[0][0].content == [block]
