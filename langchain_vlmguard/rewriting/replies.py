"""What a rewriter's model says, read past thinking, code fences and other words; what stands inside thinking never decides."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage

from langchain_vlmguard.content.messages import calls_of, words_of
from langchain_vlmguard.rewriting.prompts import is_picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from langchain_core.messages import BaseMessage

_NAMES = "(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|inner_monologue)"
_OPENS = re.compile(
    rf"<(?:[\w.-]{{1,20}}:)?{_NAMES}(?:\s[^<>]{{0,100}})?>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|START_THINKING)\|>|<unused94>"
    r"|<\|channel\|>(?:analysis|commentary)<\|message\|>",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    rf"</(?:[\w.-]{{1,20}}:)?{_NAMES}\s{{0,9}}>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|END_THINKING)\|>|<unused95>"
    r"|<\|channel\|>final(?:\s[^<>|]{0,40})?<\|message\|>",
    re.IGNORECASE,
)
_END = re.compile(r"(?:<\|(?:return|end|im_end|eot_id|END_RESPONSE)\|>\s*)+$")
_BEGIN = re.compile(r"^\s*<\|START_RESPONSE\|>")
_FENCE = re.compile(r"^[ \t]*```[^\n`]{0,30}\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
_REPORT = re.compile(
    r"</?\s*(?:threats|intent|legitimate|action|risk|prompt)\s*>|[\"'](?:threats|decision|action)\\*[\"']\s*:",
    re.IGNORECASE,
)
_CUT = frozenset({"length", "max_tokens", "MAX_TOKENS", "max_output_tokens", "model_length"})
_FINISHES = ("finish_reason", "stop_reason", "stopReason", "done_reason")
_MOST_OBJECTS = 100
_MOST_FENCES = 20


def spoken(answer: object) -> str:
    """Return what a model said, without its thinking.

    Raises:
        ValueError: It was cut off, says nothing, or its thinking has no end or more than one.
    """
    if isinstance(answer, AIMessage) and is_cut(answer):
        msg = "it was cut off at the model's limit of tokens: raise the limit"
        raise ValueError(msg)
    text = without_thinking(str(answer.text) if isinstance(answer, AIMessage) else str(answer))
    if not text:
        msg = "it says nothing"
        raise ValueError(msg)
    return text


def is_cut(message: AIMessage) -> bool:
    """Whether a provider says that the answer ended at the limit of tokens."""
    metadata = message.response_metadata
    return any(str(metadata.get(key)) in _CUT for key in _FINISHES)


def without_thinking(text: str) -> str:
    """Return what follows a model's thinking.

    Nothing is known of where thinking ends that has no mark for it, or more of them than it began: a mark may have been
    quoted from the turn.

    Raises:
        ValueError: The thinking has no end, or its end cannot be told.

    ??? example

        ```python
        without_thinking("<think>A kite is harmless.</think> allow")  # "allow"
        ```
    """
    opens, closes = list(_OPENS.finditer(text)), list(_CLOSES.finditer(text))
    after = closes[-1].end() if closes else 0
    if any(found.start() >= after for found in opens):
        msg = "its thinking has no end"
        raise ValueError(msg)
    if len(closes) > max(1, len(opens)):
        msg = "its thinking ends more often than it begins"
        raise ValueError(msg)
    return _BEGIN.sub("", _END.sub("", text[after:])).strip()


def is_quotable(messages: Sequence[BaseMessage]) -> bool:
    """Whether what is judged holds parts of a report, which a model may quote without meaning them."""
    return any(_REPORT.search(said) for message in messages for said in _material(message))


def _material(message: BaseMessage) -> list[str]:
    blocks = message.content if isinstance(message.content, list) else [message.content]
    return [*(words_of(block) for block in blocks if not is_picture(block)), *calls_of(message)]


def report_in(text: str, *, quotable: bool) -> str:
    """Return the report in an answer: in a code fence, or with words around it if nobody could have been quoted.

    Args:
        text: The answer, without thinking.
        quotable: Whether the turn holds parts of a report.

    Raises:
        ValueError: There is more than one report.
    """
    if text.startswith("<threats>") or _is_json(text):
        return text
    fences = list(_FENCE.finditer(text)) if text.count("```") <= _MOST_FENCES else []
    if len(fences) == 1 and fences[0][0].strip() == text:
        return fences[0][1].strip()
    if quotable:
        return text
    fenced = [fence for fence in fences if _REPORT.search(fence[1])]
    if len(fenced) == 1 and not _REPORT.search(text[: fenced[0].start()] + text[fenced[0].end() :]):
        return fenced[0][1].strip()
    found = [one for one in _objects(text) if _REPORT.search(one)]
    if len(found) > 1:
        msg = "it holds more than one report"
        raise ValueError(msg)
    return found[0] if found and not _REPORT.search(text.replace(found[0], "", 1)) else text


def read_json(text: str) -> dict[str, object]:
    """Return a report in JSON.

    Raises:
        ValueError: It is not one JSON object, or names a field twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except (RecursionError, json.JSONDecodeError):
        value = None
    if not isinstance(value, dict):
        msg = "it is not one JSON object"
        raise ValueError(msg)  # noqa: TRY004 - of an answer, not of a type
    return value


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict) if text.startswith("{") else False
    except (ValueError, RecursionError):
        return False


def _objects(text: str) -> Iterator[str]:
    """Yield every JSON object that stands in a text, without those inside another one."""
    decoder, at = json.JSONDecoder(), text.find("{")
    for _ in range(_MOST_OBJECTS):
        if at < 0:
            return
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield text[at:end]
        at = text.find("{", end)


def _once(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for key, value in pairs:
        if key in fields:
            msg = "it names a field twice"
            raise ValueError(msg)
        fields[key] = value
    return fields


def _no_number(name: str) -> object:
    msg = f"{name} is no number"
    raise ValueError(msg)
