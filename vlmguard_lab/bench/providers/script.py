"""The conversation: ten harmless turns, and what a provider's model says in each."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from PIL import Image
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Report(BaseModel):
    """A weather report."""

    city: str = Field(description="The city.")
    degrees: int = Field(description="Degrees Celsius.")


@dataclass(frozen=True)
class Said:
    """One answer of a model, in no provider's form."""

    text: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    thought: str = ""
    searched: bool = False
    """Whether the provider's own search ran before the text."""


SCRIPT = (
    Said("Hello! I can tell you about the weather."),
    Said(calls=(("weather", {"city": "Paris"}),)),
    Said("It is sunny in Paris."),
    Said("Let me look at both.", calls=(("weather", {"city": "Rome"}), ("weather", {"city": "Oslo"}))),
    Said("Both are sunny."),
    Said("The picture is red."),
    Said(calls=(("draw", {"colour": "blue"}),)),
    Said("Here is a blue square."),
    Said("It is 51.", thought="17 times 3 is 51."),
    Said("Noted."),
    Said("The Seine flows through Paris.", searched=True),
    Said(calls=(("weather", {"city": "Lima"}),), thought="I should look it up."),
    Said("It is sunny in Lima."),
    Said('{"city": "Lima", "degrees": 21}'),
)
"""What the model says to `requests`, round by round."""


def picture(colour: str) -> str:
    """Return a small picture as base64."""
    buffer = BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@tool
def weather(city: str) -> str:
    """Say what the weather is like."""
    return f"sunny in {city}"


@tool
def draw(colour: str) -> list[dict[str, Any]]:
    """Draw a square."""
    return [
        {"type": "text", "text": f"a {colour} square"},
        {"type": "image", "base64": picture(colour), "mime_type": "image/png"},
    ]


def requests(mark: Sequence[Mapping[str, Any]]) -> list[HumanMessage]:
    """Return what the person says; `mark` is a text in blocks, with the provider's caching mark if it has one."""
    shown = {"type": "image", "base64": picture("red"), "mime_type": "image/png"}
    said: list[Any] = [
        "Hello, who are you?",
        "What is the weather in Paris?",
        "And in Rome and Oslo?",
        [{"type": "text", "text": "Which colour is this?"}, shown],
        "Draw me a blue square.",
        "What is 17 times 3?",
        [dict(block) for block in mark],
        "Which river flows through Paris?",
        "Is it sunny in Lima?",
        "Put that in a report.",
    ]
    return [HumanMessage(words, id=f"person-{at}") for at, words in enumerate(said)]
