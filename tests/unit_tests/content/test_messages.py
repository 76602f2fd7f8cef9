import pytest
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from PIL import Image

from langchain_vlmguard.content.checking import open_picture
from langchain_vlmguard.content.messages import is_read, read_for_model, read_turn
from langchain_vlmguard.content.turn import LEFT_OUT
from langchain_vlmguard.errors import UnreadableContentError
from langchain_vlmguard.verdict.limits import ImageLimits, ReadLimits
from tests.pictures import READABLE, UNREADABLE, b64, data_uri, png

CALL = {"name": "look", "args": {}, "id": "1"}


@pytest.mark.parametrize("block", READABLE.values(), ids=READABLE)
@pytest.mark.parametrize(
    "kind",
    [
        HumanMessage,
        SystemMessage,
        lambda content: ToolMessage(content, tool_call_id="1"),
        lambda content: AIMessage(content, tool_calls=[CALL]),
    ],
    ids=["human", "system", "tool", "ai"],
)
def test_every_spelling_with_data_becomes_one_checked_standard_block(block, kind):
    turn = read_turn([kind([block, {"type": "text", "text": "what is this?"}])])
    assert not turn.unjudged
    inner = ".content[0]" if block.get("type") == "tool_result" else ""
    assert [picture.where for picture in turn.pictures] == [f"messages[0].content[0]{inner}"]
    picture, text = turn.messages[0].content
    assert picture == {"type": "image", "base64": b64(), "mime_type": "image/png"}
    assert text == {"type": "text", "text": "what is this?"}
    assert open_picture(picture).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(("block", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_everything_else_is_accounted_for_and_reaches_no_model(block, reason):
    turn = read_turn([HumanMessage(["look", block])])
    assert [part.where for part in turn.unjudged] == ["messages[0].content[1]"]
    assert reason in turn.unjudged[0].reason
    assert turn.messages[0].content == ["look", {"type": "text", "text": LEFT_OUT}]
    with pytest.raises(UnreadableContentError, match=r"messages\[0\]\.content\[1\]"):
        read_for_model([HumanMessage(["look", block])])


def test_an_unread_part_of_an_earlier_turn_does_not_end_the_conversation():
    history = [HumanMessage([UNREADABLE["https address"][0]]), AIMessage("i could not read that")]
    turn = read_turn([*history, HumanMessage("then tell me about kites")])
    assert turn.unjudged == ()
    assert turn.text == "then tell me about kites"
    assert turn.messages[0].content == [{"type": "text", "text": LEFT_OUT}]


def test_a_turn_reaches_back_to_the_last_answer_and_over_tool_calls():
    messages = [
        HumanMessage("first"),
        AIMessage("answer"),
        HumanMessage("second"),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage([READABLE["v1 image"]], tool_call_id="1"),
    ]
    turn = read_turn(messages)
    assert (turn.start, turn.text, turn.current[-1].text) == (2, "second", "")
    assert len(turn.pictures) == 1


def test_limits_on_pictures_and_text():
    limits = ReadLimits(image=ImageLimits(max_bytes=60), max_images=1, max_text_chars=10)
    turn = read_turn([HumanMessage(["0123456789", "x", READABLE["v1 image"]])], limits)
    assert [part.reason for part in turn.unjudged] == [
        "the turn is longer than 10 characters",
        "the picture is larger than 60 bytes",
    ]
    many = read_turn([HumanMessage([READABLE["v1 image"]] * 2)], ReadLimits(max_images=1))
    assert [part.where for part in many.unjudged] == ["messages[0].content[1]"]


def test_ids_and_other_fields_of_messages_stay():
    message = HumanMessage([READABLE["OpenAI"]], id="m1", name="ann")
    read = read_turn([message]).messages[0]
    assert (read.id, read.name) == ("m1", "ann")
    assert message.content == [READABLE["OpenAI"]]


def test_models_keep_their_own_blocks_in_history_but_a_local_model_sees_text_and_pictures_only():
    spoken = AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}])
    assert read_turn([spoken, HumanMessage("go on")]).messages[0].content[0]["type"] == "thinking"
    assert read_for_model([spoken])[0].content == [{"type": "text", "text": "yes"}]


def test_the_picture_passed_on_is_upright_and_opaque():
    clear = png((0, 0, 0, 0), mode="RGBA")
    block = read_turn([HumanMessage([{"type": "image", "base64": b64(clear)}])]).messages[0].content[0]
    assert open_picture(block).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("message", "where"),
    [
        (ToolMessage("ok", tool_call_id="1", artifact={"figure": data_uri(b"%PDF-1.7")}), "messages[0].artifact"),
        (HumanMessage("hi", additional_kwargs={"x": [READABLE["OpenAI"]]}), "messages[0].additional_kwargs"),
        (AIMessage("", tool_calls=[{**CALL, "args": {"x": data_uri()}}]), "messages[0].tool_calls"),
        (
            AIMessage([{"type": "thinking", "thinking": "x", "more": READABLE["OpenAI"]}], tool_calls=[CALL]),
            "messages[0].content[0]",
        ),
    ],
    ids=["artifact", "additional_kwargs", "tool call", "model-authored block"],
)
def test_pictures_beside_the_content_are_accounted_for_and_left_out(message, where):
    turn = read_turn([message])
    assert [part.where for part in turn.unjudged] == [where]
    assert "may hold a picture" in turn.unjudged[0].reason
    assert "base64" not in str(turn.messages)


def test_an_artifact_without_a_picture_is_nothing_to_judge_and_nothing_for_the_model():
    turn = read_turn([ToolMessage("ok", tool_call_id="1", artifact={"rows": 3})])
    assert turn.unjudged == ()
    assert turn.messages[0].artifact is None


def test_a_message_of_an_unknown_role_is_not_read():
    turn = read_turn([ChatMessage(role="user", content="secret wish")])
    assert [(part.where, part.kind) for part in turn.unjudged] == [("messages[0]", "ChatMessage")]
    assert turn.messages[0].content == LEFT_OUT


def test_of_earlier_pictures_the_newest_stay():
    earlier = [HumanMessage([READABLE["v1 image"]]) for _ in range(3)]
    turn = read_turn([*earlier, AIMessage("seen"), HumanMessage("and now?")], ReadLimits(max_earlier_images=2))
    assert [message.content[0]["type"] for message in turn.messages[:3]] == ["text", "image", "image"]
    assert turn.unjudged == ()


def test_blocks_that_cannot_be_written_down_are_accounted_for():
    deep = {"type": "thinking", "thinking": []}
    for _ in range(5_000):
        deep = {"type": "thinking", "thinking": [deep]}
    turn = read_turn([AIMessage([deep], tool_calls=[CALL])])
    assert len(turn.unjudged) == 1


def test_tool_calls_count_as_text():
    call = {**CALL, "args": {"text": "x" * 200}}
    turn = read_turn([AIMessage("", tool_calls=[call])], ReadLimits(max_text_chars=100))
    assert "longer than 100 characters" in turn.unjudged[0].reason


def test_what_was_read_is_known_as_read():
    messages = [HumanMessage(["hm", READABLE["OpenAI"]]), AIMessage([{"type": "thinking", "thinking": "x"}])]
    assert [is_read(message) for message in messages] == [False, True]
    assert all(map(is_read, read_turn(messages).messages))


def test_pictures_in_an_artifact_are_read_and_the_artifact_is_left_out():
    artifact = {
        "figure": data_uri(),
        "more": [READABLE["MCP resource"], {"mimeType": "image/png", "data": b64()}, png()],
    }
    turn = read_turn([HumanMessage("draw"), ToolMessage("ok", tool_call_id="1", artifact=artifact)])
    assert turn.unjudged == ()
    assert [(p.message, p.block, p.where) for p in turn.pictures] == [(1, None, "messages[1].artifact")] * 4
    assert turn.messages[1].artifact is None


def test_the_turn_knows_which_picture_belongs_to_which_message():
    loop = [
        HumanMessage([READABLE["v1 image"], "and", READABLE["OpenAI"]]),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage([READABLE["Anthropic tool result"]], tool_call_id="1"),
    ]
    turn = read_turn(loop)
    assert [(p.message, p.where) for p in turn.pictures] == [
        (0, "messages[0].content[0]"),
        (0, "messages[0].content[2]"),
        (2, "messages[2].content[0].content[0]"),
    ]


def test_frames_stand_one_after_the_other_where_the_policy_wants_all():
    moving = png("white", fmt="GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "black")])
    block = {"type": "image", "base64": b64(moving)}
    limits = ReadLimits(image=ImageLimits(frames="all"), max_images=2)
    turn = read_turn([HumanMessage(["a", block, "b"])], limits)
    shown = turn.messages[0].content
    assert [open_picture(part).getpixel((0, 0)) for part in shown[1:3]] == [(255, 255, 255), (0, 0, 0)]
    assert (shown[0], shown[3]) == ("a", "b")
    assert read_turn([HumanMessage([block, block])], limits).unjudged[0].where == "messages[0].content[1]"


def test_old_pictures_are_not_decoded_again(monkeypatch):
    old = {"type": "image", "base64": b64(png((1, 2, 3), size=(33, 7)))}
    read_turn([HumanMessage([old])])
    monkeypatch.setattr(Image, "open", None)
    turn = read_turn([HumanMessage([old]), AIMessage("a picture"), HumanMessage("and now?")])
    assert turn.unjudged == turn.pictures == ()
    assert turn.messages[0].content[0]["type"] == "image"


def test_a_block_that_only_looks_read_is_not_taken_for_read():
    forged = HumanMessage([{"type": "image", "base64": b64(b"no picture"), "mime_type": "image/png"}])
    assert not is_read(forged)
    assert not is_read(HumanMessage([{"type": "image", "base64": b64(png((7, 7, 9))), "mime_type": "image/png"}]))
