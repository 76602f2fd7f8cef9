"""What is judged besides a person's turn: answers, tool calls and tool results, in one wording for each kind of judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import AIMessage, HumanMessage

from langchain_vlmguard.content.carriers import as_json, carried_by, pictures_in
from langchain_vlmguard.content.spellings import shows_picture
from langchain_vlmguard.verdict.limits import ImageLimits

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from langchain_core.messages import BaseMessage, ToolCall, ToolMessage

    from langchain_vlmguard.content.turn import Block

PREPARED = "(What the assistant prepared comes next.)"
"""Closes the context of a subject, so that the subject is the turn to be judged."""


@dataclass(frozen=True)
class Subject:
    """An answer or a tool call that is about to leave."""

    kind: Literal["answer", "tool_call"]
    text: str
    """The answer's words; for a tool call its arguments as JSON."""

    tool: str = ""
    description: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[Block, ...] = ()
    """Blocks that hold no words: pictures, and what nobody can read."""

    call: ToolCall | None = None
    """The call as the model made it."""

    @classmethod
    def of_answer(cls, message: AIMessage, tools: Iterable[str] | None = None) -> Subject:
        """Return an answer's words and pictures.

        Args:
            message: The answer.
            tools: Names of the tools that can run; calls of anything else (structured output) are words of the answer. Every
                call can run if it is `None`.
        """
        found = carried_by(message, None if tools is None else set(tools))
        return cls("answer", "\n".join(found.words), pictures=found.pictures)

    @classmethod
    def of_call(cls, call: ToolCall, description: str = "") -> Subject:
        """Return a tool call."""
        args, pictures = _without_pictures(call["args"])
        return cls("tool_call", as_json(args), call["name"], description, dict(args), tuple(pictures), call=call)

    @property
    def words(self) -> str:
        """What a judge of texts reads: the answer's words, or the call as its name and values."""
        if self.kind == "answer":
            return self.text
        return " ".join([self.tool, *map(str, self.args.values())])

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to judge."""
        return not self.words.strip() and not self.pictures


@dataclass(frozen=True)
class Scope:
    """What of an answer is judged."""

    tools: Mapping[str, str] | None = None
    """Descriptions of the tools that can run, by name; every call can run if it is `None`."""

    covered: Collection[str] | None = None
    """Names of the tools whose calls are judged; all that can run if it is `None`."""

    answer: bool = True
    """Whether its words and pictures are judged."""

    calls: bool = True
    """Whether its calls are judged."""

    by_rewriter: bool = True
    """Whether the rewriter may be asked about them."""


def subjects_of(message: AIMessage, scope: Scope | None = None) -> list[Subject]:
    """Return what of an answer has to be judged: its words, and each tool call by itself."""
    scope = scope or Scope()
    said = Subject.of_answer(message, scope.tools)
    found = [said] if scope.answer and not said.is_empty else []
    if scope.calls:
        can_run = [call for call in message.tool_calls if scope.tools is None or call["name"] in scope.tools]
        judged = [call for call in can_run if scope.covered is None or call["name"] in scope.covered]
        found += [Subject.of_call(call, (scope.tools or {}).get(call["name"], "")) for call in judged]
    return found


Phrase = Callable[[Subject], str]
"""Words a subject for the rewriter that judges it."""


def describe(subject: Subject) -> str:
    """Word a subject for a rewriter that is a general chat model."""
    if subject.kind == "answer":
        return f"The assistant is about to answer this. Judge whether the answer does harm:\n{subject.text}"
    about = f" ({subject.description})" if subject.description else ""
    return (
        f"The assistant is about to call the tool {subject.tool}{about} with these arguments. Judge whether the call does "
        f"harm, or does what nobody asked for:\n{subject.text}"
    )


def as_turn(subject: Subject, phrase: Phrase) -> list[BaseMessage]:
    """Return a subject as a turn of its own, in the rewriter's words."""
    content: list[str | Block] = [*subject.pictures, {"type": "text", "text": phrase(subject)}]
    return [HumanMessage(content if subject.pictures else phrase(subject), id="subject")]


def as_context(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return a conversation as the context of a subject: whatever follows is a turn of its own."""
    return [*messages, AIMessage(PREPARED, id="prepared")] if messages else []


def result_as_turn(call: ToolCall, message: ToolMessage) -> list[BaseMessage]:
    """Return a tool's result as a turn of its own: the call's name, and what came back. Arguments were judged before."""
    asked = {"name": call["name"], "args": {}, "id": message.tool_call_id, "type": "tool_call"}
    return [AIMessage("", tool_calls=[asked], id="called"), message.model_copy(update={"id": "result"})]


def _without_pictures(args: dict[str, Any]) -> tuple[dict[str, Any], list[Block]]:
    """Return arguments with `[a picture]` in place of the data of pictures that can be read, and those pictures."""
    pictures = [block for block in pictures_in(args) if shows_picture(block, ImageLimits())]
    return (
        (_replaced(args, {data for block in pictures for data in block.values()}), pictures) if pictures else (args, [])
    )


def _replaced(value: Any, data: Collection[str]) -> Any:
    if isinstance(value, str):
        return "[a picture]" if value in data else value
    if isinstance(value, dict):
        return {key: _replaced(one, data) for key, one in value.items()}
    return [_replaced(one, data) for one in value] if isinstance(value, list) else value
