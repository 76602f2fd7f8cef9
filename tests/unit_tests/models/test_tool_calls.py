"""Tool calls in the forms of the real families, whole and one character at a time."""

import pytest

from langchain_vlmguard.models.tool_calls import CallReader, parse_tool_calls

KITE = ("order", {"item": "kite"})
FORMS = {
    "hermes": ('<tool_call>\n{"name": "order", "arguments": {"item": "kite"}}\n</tool_call>', [KITE]),
    "hermes, arguments as text": (
        '<tool_call>{"name": "order", "arguments": "{\\"item\\": \\"kite\\"}"}</tool_call>',
        [KITE],
    ),
    "hermes, two": ('<tool_call>{"name": "order", "arguments": {"item": "kite"}}</tool_call>' * 2, [KITE, KITE]),
    "qwen coder": (
        "<tool_call>\n<function=order>\n<parameter=item>\nkite\n</parameter>\n<parameter=n>\n2\n</parameter>\n</function>",
        [("order", {"item": "kite", "n": 2})],
    ),
    "glm": ("<tool_call>order\n<arg_key>item</arg_key>\n<arg_value>kite</arg_value>\n</tool_call>", [KITE]),
    "mistral": ('[TOOL_CALLS][{"name": "order", "arguments": {"item": "kite"}}]', [KITE]),
    "mistral, newer": ('[TOOL_CALLS]order[ARGS]{"item": "kite"}[TOOL_CALLS]order[ARGS]{"item": "kite"}', [KITE, KITE]),
    "gemma 4": (
        '<|tool_call>call:order{item:<|"|>a "kite", {x: 1}<|"|>,n:2,deep:{k:[1,true]}}<tool_call|>',
        [("order", {"item": 'a "kite", {x: 1}', "n": 2, "deep": {"k": [1, True]}})],
    ),
    "function gemma": ("<start_function_call>call:order{item:<escape>kite<escape>}<end_function_call>", [KITE]),
    "gemma 3": ('```tool_code\nprint(order(item="kite"))\n```', [KITE]),
    "llama 3": (
        '<|python_tag|>{"name": "order", "parameters": {"item": "kite"}}; {"name": "order", "parameters": {"item": "kite"}}',
        [KITE, KITE],
    ),
    "llama 3, bare": ('{"name": "order", "parameters": {"item": "kite"}}', [KITE]),
    "llama 4": ('[order(item="kite"), order(item="kite")]', [KITE, KITE]),
    "json block": ('```json\n{"name":"order","arguments":{"item":"kite"}}\n```', [KITE]),
    "json list": ('[{"name":"order","arguments":{"item":"kite"}}]', [KITE]),
}
WORDS = [
    '{"name": "other", "parameters": {"item": "kite"}}',
    '{"answer": 42}',
    'look:\n```json\n{"a": 1}\n```\nfine',
    "[1] is a note",
    "a < b and [TOOL is near",
    "",
]


def streamed(text, offered=("order",), size=1):
    reader = CallReader(offered)
    words = "".join(reader.feed(text[at : at + size]) for at in range(0, len(text), size)) + reader.end()
    return words, reader


def calls_of(found):
    return [(call["name"], call["args"]) for call in found]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_whole_and_in_pieces(form):
    text, calls = FORMS[form]
    reading = parse_tool_calls(text, {"order"})
    assert (calls_of(reading.calls), reading.words, reading.invalid) == (calls, "", [])
    for size in (1, 3, 17):
        words, reader = streamed(text, size=size)
        assert (calls_of(reader.calls), words.strip()) == (calls, "")


@pytest.mark.parametrize("form", ["hermes", "mistral", "gemma 4", "gemma 3", "json block"])
def test_words_before_a_call_leave_before_it_is_whole(form):
    text, calls = FORMS[form]
    reader = CallReader({"order"})
    assert reader.feed("i will order it . ") + reader.feed(text[:-1]) == "i will order it . "
    assert (reader.feed(text[-1:]) + reader.end()).strip() == ""
    assert calls_of(reader.calls) == calls


@pytest.mark.parametrize("text", WORDS)
def test_what_is_no_call_stays_as_it_was_written(text):
    assert parse_tool_calls(text, {"order"}).words == text
    assert parse_tool_calls(text, {"order"}).calls == []
    assert streamed(text)[0] == text


def test_an_untagged_form_counts_only_for_tools_that_were_offered():
    text, _ = FORMS["llama 3, bare"]
    assert parse_tool_calls(text).words == text
    assert parse_tool_calls(text, {"other"}).calls == []


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "order", "argu',
        "<tool_call>order please</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "order", "arguments": 5}</tool_call>',
        "<|tool_call>order<tool_call|>",
        "[TOOL_CALLS]order",
    ],
)
def test_a_tagged_call_that_cannot_be_read_is_kept_as_invalid_with_the_reason(text):
    reading = parse_tool_calls("hm " + text, {"order"})
    assert (reading.words, reading.calls) == ("hm", [])
    assert reading.invalid[0]["error"].startswith("not a tool call")
    assert reading.invalid[0]["args"] in text


def test_each_call_gets_an_id_of_its_own():
    calls = parse_tool_calls(FORMS["hermes, two"][0], {"order"}).calls
    assert len({call["id"] for call in calls}) == 2
