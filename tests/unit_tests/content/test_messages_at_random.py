"""Random conversations in all spellings: whatever they hold, nothing unread reaches a model."""

import copy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_vlmguard import create_vlm_guard
from langchain_vlmguard.content.messages import read_turn
from langchain_vlmguard.content.turn import LEFT_OUT
from tests.chat_models import ScriptedModel
from tests.pictures import READABLE, UNREADABLE, b64, data_uri
from tests.reading import FILES, conversation_is_read, file_is_checked_or_refused
from tests.rewrites import Judge

SECRET = "hiddenwish"
CALL = {"name": "look", "args": {}, "id": "1"}
SHORT = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

colours = st.tuples(*[st.integers(0, 255)] * 3)
readable = st.sampled_from(sorted(READABLE)).map(READABLE.get)
WORDS = """type image image_url url base64 data source file file_id path inline_data bytes mime_type media_type mimeType
resource content text source_type blob extras document"""
names = st.sampled_from(WORDS.split())
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.just(SECRET)
    | st.just(data_uri())
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
types = st.sampled_from(
    [
        "image",
        "image_url",
        "input_image",
        "file",
        "media",
        "resource",
        "tool_result",
        "text",
        "text-plain",
        "video",
        "x",
    ]
)


@st.composite
def unreadable(draw):
    """A block that cannot be read, with a secret in it that must never show up."""
    block = copy.deepcopy(
        UNREADABLE[draw(st.sampled_from(sorted(UNREADABLE.keys() - {"a tool call from a person"})))][0]
    )
    block["note"] = SECRET
    return block


@st.composite
def odd(draw):
    """A block of random keys: whether it can be read is for the reader to say."""
    block = draw(st.dictionaries(names, junk, max_size=4))
    if draw(st.booleans()):
        block["type"] = draw(types)
    return block


texts = st.text(max_size=20) | st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=20))
known = readable | unreadable() | texts
blocks = st.lists(
    known | st.builds(lambda inner: {"type": "tool_result", "content": inner}, st.lists(known, max_size=2)), max_size=4
)


def message(kind, content):
    if kind == "tool":
        return ToolMessage(content, tool_call_id="1")
    if kind == "ai":
        return AIMessage(content, tool_calls=[CALL])
    return {"human": HumanMessage, "system": SystemMessage}[kind](content)


kinds = st.sampled_from(["human", "tool", "ai", "system"])
messages = st.lists(st.builds(message, kinds, blocks), min_size=1, max_size=3)
odd_messages = st.lists(st.builds(message, kinds, st.lists(odd() | texts, max_size=3)), min_size=1, max_size=3)


def reaches(conversation):
    """Return what a model saw of a conversation that the guard let in, and the verdict."""
    model = ScriptedModel()
    state = create_vlm_guard(model, answer_judge=Judge(0.0)).compile().invoke({"messages": conversation})
    return model.seen, state["verdict"]


@SHORT
@given(messages)
def test_what_is_unread_is_accounted_for_and_reaches_no_model(conversation):
    turn = conversation_is_read(conversation)
    assert SECRET not in str(turn.messages)
    assert (LEFT_OUT in str(turn.messages)) == bool(turn.unjudged)
    seen, verdict = reaches(conversation)
    assert SECRET not in str(seen)
    if turn.unjudged:
        assert (seen, verdict["action"]) == ([], "refuse")
        assert [part["where"] for part in verdict["unjudged"]] == [part.where for part in turn.unjudged]


@SHORT
@given(odd_messages)
def test_blocks_of_random_keys_raise_nothing_and_pass_nothing_unread(conversation):
    conversation_is_read(conversation)


edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "repeat"]), st.integers(0, 2_000), st.binary(min_size=1, max_size=6)
    ),
    min_size=1,
    max_size=6,
)


def edited(data, changes):
    for how, at, new in changes:
        head, tail = data[: at % (len(data) + 1)], data[at % (len(data) + 1) :]
        if how == "set":
            data = head + new + tail[len(new) :]
        elif how == "cut":
            data = head + tail[len(new) :]
        elif how == "insert":
            data = head + new + tail
        else:
            data = head + head[-40:] + tail
    return data


damaged = st.builds(edited, st.sampled_from(FILES), edits) | st.binary(max_size=99)


@SHORT
@given(damaged)
def test_a_damaged_file_is_file_is_checked_or_refused(data):
    file_is_checked_or_refused(data)


def test_base64_of_any_shape_is_read_the_same():
    whole = b64()
    for spelled in (whole, whole.replace("A", "A\n"), f"\n{whole}\r\n"):
        turn = read_turn([HumanMessage([{"type": "image", "base64": spelled}])])
        assert turn.messages[0].content == [READABLE["v1 image"]]
