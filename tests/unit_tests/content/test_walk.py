"""The walk over everything that a value holds."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from langchain_vlmguard.content.walk import texts_in
from langchain_vlmguard.errors import UnreadableContentError


@dataclass
class Box:
    inside: object


class Model(BaseModel):
    said: str


class Made(Mapping):
    """Makes its values when it is asked, as lazy mappings do."""

    def __getitem__(self, key):
        return [f"value of {key}"]

    def __iter__(self):
        return iter(range(100))

    def __len__(self):
        return 100


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a", ["a"]),
        ({"x": "a", "two words": ["b", ("c", {"d"})]}, ["a", "two words", "b", "c", "d"]),
        ([Box({"x": Box("a")}), Model(said="b")], ["a", "b"]),
        ({("key of", "a pair"): "a"}, ["key of", "a pair", "a"]),
        ([None, 1, 2.5, True, b"bytes"], []),
    ],
)
def test_strings_are_found_in_order_wherever_they_stand(value, found):
    assert list(texts_in(value)) == found


def test_fields_are_left_out_with_all_they_hold():
    assert list(texts_in({"id": {"x": "a"}, "text": "b"}, without=("id",))) == ["b"]


def test_circles_and_depth_end():
    circle = ["a"]
    circle.append(circle)
    deep = "b"
    for _ in range(100_000):
        deep = [deep]
    assert list(texts_in([circle, deep])) == ["a", "b"]


def test_values_that_are_made_when_asked_for_are_all_read():
    assert len(set(texts_in(Made()))) == 100


def test_numbers_do_not_count_and_too_many_texts_are_an_error():
    assert list(texts_in([[0.5] * 2_000_000, "a"])) == ["a"]
    with pytest.raises(UnreadableContentError, match="more than 1,000,000 parts"):
        list(texts_in(["a"] * 1_000_001))
