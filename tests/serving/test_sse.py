"""The parser by the standard, and what is written is the plainest dialect."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vlmguard.serving.sse import EventParser, StreamFormatError, data_event

ANSWER = (
    "\ufeff: hello\n\nid: 1\nretry: 5\n\n"
    'event: x\ndata: {"a": "é😀"}\r\n\r\ndata: one\rdata:two\r\r'
    "data: p\r\ndata: q\r\n\r\ndata\n\nunknown: field\ndata:  [DONE]\n\n"
).encode()
EVENTS = [("x", '{"a": "é😀"}'), ("message", "one\ntwo"), ("message", "p\nq"), ("message", ""), ("message", " [DONE]")]


def events(pieces):
    parser = EventParser()
    return [(one.kind, one.data) for piece in pieces for one in parser.feed(piece)]


@given(st.lists(st.integers(0, len(ANSWER)), max_size=30))
def test_events_are_the_same_however_the_bytes_are_cut(cuts):
    at = sorted({0, len(ANSWER), *cuts})
    assert events([ANSWER[a:b] for a, b in pairwise(at)]) == EVENTS


def test_single_bytes_and_seven_at_a_time():
    for size in (1, 7):
        assert events([ANSWER[at : at + size] for at in range(0, len(ANSWER), size)]) == EVENTS


def test_an_event_that_is_not_finished_is_none_and_is_noticed():
    parser = EventParser()
    assert not list(parser.feed(b'data: {"a": 1}\n'))
    assert not parser.is_between_events


def test_an_event_has_a_most_and_comments_do_not_count():
    parser = EventParser(most=100)
    assert not list(parser.feed(b": keep\n\n" * 1000))
    with pytest.raises(StreamFormatError, match="larger than 100 bytes"):
        list(parser.feed(b"data: " + b"a" * 100))
    with pytest.raises(StreamFormatError, match="larger than 100 bytes"):
        list(EventParser(most=100).feed(b"data: aaaaaaaaaa\n" * 10))


def test_what_is_written_is_one_ascii_line_that_the_parser_reads_back():
    value = {"text": "a\r\nb\u2028\ud800é", "n": 1}
    raw = data_event(value)
    assert raw.isascii()
    assert raw.count(b"\n") == 2
    [(_, data)] = events([raw])
    assert json.loads(data) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        data_event(float("inf"))
