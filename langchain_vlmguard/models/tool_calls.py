"""Tool calls as local models write them, found in whole answers and in answers that still grow.

| family | form |
| --- | --- |
| Hermes, Qwen 2.5/3, the testbed | `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` |
| Qwen 3 Coder, Qwen 3.5 | `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>` |
| GLM 4.5 | `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>` |
| Mistral | `[TOOL_CALLS][{"name": ..., "arguments": {...}}]` and `[TOOL_CALLS]name[ARGS]{...}` |
| Gemma 4, FunctionGemma | `<|tool_call>call:name{key:<|"|>value<|"|>}<tool_call|>` and its older spelling |
| Gemma 3 | a `tool_code` block with Python calls |
| Llama 3 | `<|python_tag|>` or nothing, then `{"name": ..., "parameters": {...}}`, several parted by `;` |
| Llama 4, generic Python | `[name(key="value"), ...]` |
| generic JSON | an object or a list of such objects, bare or in a `json` block |

A form without a tag of its own counts only where every name in it was offered: an answer that is JSON stays an answer.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from langchain_core.messages.tool import invalid_tool_call, tool_call

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from langchain_core.messages import InvalidToolCall, ToolCall

CALL_MARKERS = frozenset(
    {
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "<|python_tag|>",
        "<|tool_call>",
        "<tool_call|>",
        '<|"|>',
        "<start_function_call>",
        "<end_function_call>",
        "<escape>",
    }
)
"""Tokens that some families keep special although calls cannot be read without them."""

Parsed = list[tuple[object, object]]
"""Names and arguments."""


@dataclass(frozen=True)
class Reading:
    """A parsed answer: its words, its calls, and what looks like a call but is not one."""

    words: str
    calls: list[ToolCall] = field(default_factory=list)
    invalid: list[InvalidToolCall] = field(default_factory=list)
    """Calls as they were written, with the reason why they cannot be made."""


@dataclass(frozen=True)
class _Form:
    opening: str
    """Text that opens a call of this form."""

    pattern: re.Pattern[str]
    """The whole of it; what the answer broke off counts too. The group `body` is parsed."""

    parse: Callable[[str], Parsed]
    tagged: bool = True
    """Whether the tag alone says that this is a call."""

    def complete(self, text: str) -> re.Match[str] | None:
        """Return the form at the beginning of an unfinished text if its end is there already."""
        match = self.pattern.match(text)
        return match if match and match.groupdict().get("end") else None


def _from_json(body: str) -> Parsed:
    decoder, calls, at = json.JSONDecoder(), [], 0
    while at < len(body):
        value, at = decoder.raw_decode(body, at)
        calls += [_from_object(one) for one in (value if isinstance(value, list) else [value])]
        at += len(body[at:]) - len(body[at:].lstrip(" \n\t\r;"))
    return calls


def _from_object(value: object) -> tuple[object, object]:
    inner = value.get("function", value) if isinstance(value, Mapping) else value
    if isinstance(value, Mapping) and isinstance(inner, str):
        return inner, value.get("parameters", value.get("arguments", {}))
    if not isinstance(inner, Mapping):
        msg = "a call is an object with a name"
        raise TypeError(msg)
    arguments = inner.get("arguments", inner.get("parameters", inner.get("args", {})))
    return inner["name"], json.loads(arguments) if isinstance(arguments, str) else arguments or {}


def _from_python(body: str) -> Parsed:
    calls: Parsed = []
    for statement in ast.parse(body.strip()).body:
        value = getattr(statement, "value", None)
        for call in value.elts if isinstance(value, ast.List) else [value]:
            inner = _unwrapped(call)
            if inner.args:
                msg = "arguments without names"
                raise ValueError(msg)
            calls.append((ast.unparse(inner.func), {one.arg: ast.literal_eval(one.value) for one in inner.keywords}))
    return calls


def _unwrapped(node: ast.AST | None) -> ast.Call:
    if not isinstance(node, ast.Call):
        msg = "not a call"
        raise TypeError(msg)
    if isinstance(node.func, ast.Name) and node.func.id == "print" and node.args:
        return _unwrapped(node.args[0])
    return node


def _from_tag(body: str) -> Parsed:
    """Read what stands between `<tool_call>` tags: JSON, Qwen's XML or GLM's."""
    if function := re.match(r"<function=(?P<name>[^>\s]+)>(?P<rest>.*?)(?:</function>\s*|$)", body, re.DOTALL):
        pairs = re.findall(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", function["rest"], re.DOTALL)
        return [(function["name"], {key: _literal(value) for key, value in pairs})]
    if "<arg_key>" in body:
        name = body.split("<arg_key>", 1)[0].strip()
        pairs = re.findall(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", body, re.DOTALL)
        return [(name, {key: _literal(value) for key, value in pairs})]
    return _from_json(body)


def _from_mistral(body: str) -> Parsed:
    if body.startswith(("[", "{")):
        return _from_json(body)
    calls: Parsed = []
    for part in body.split("[TOOL_CALLS]"):
        name, found, arguments = part.partition("[ARGS]")
        if not found:
            name, arguments = re.split(r"(?=\{)", part, maxsplit=1)
        calls.append((name.split("[CALL_ID]")[0].strip(), json.loads(arguments)))
    return calls


def _from_gemma(body: str) -> Parsed:
    head = re.match(r"call:(?P<name>[\w.-]+)\s*(?P<arguments>\{.*\})$", body, re.DOTALL)
    if head is None:
        msg = "no call:name{...}"
        raise ValueError(msg)
    texts: list[str] = []

    def keep(match: re.Match[str]) -> str:
        texts.append(match[1])
        return json.dumps(f"\x00{len(texts) - 1}")

    quoted = re.sub(r'(?:<\|"\|>|<escape>)(.*?)(?:<\|"\|>|<escape>)', keep, head["arguments"], flags=re.DOTALL)
    named = re.sub(r"([{,]\s*)([A-Za-z_][\w.-]*)\s*:", r'\1"\2":', quoted)
    return [(head["name"], _restored(json.loads(named), texts))]


def _restored(value: object, texts: list[str]) -> object:
    if isinstance(value, dict):
        return {key: _restored(one, texts) for key, one in value.items()}
    if isinstance(value, list):
        return [_restored(one, texts) for one in value]
    return texts[int(value[1:])] if isinstance(value, str) and value.startswith("\x00") else value


def _literal(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text.strip("\n")
    return value


def _form(opening: str, body: str, end: str, parse: Callable[[str], Parsed], *, tagged: bool = True) -> _Form:
    pattern = re.compile(rf"{re.escape(opening)}\s*(?P<body>{body})\s*(?:(?P<end>{end})|\Z)", re.DOTALL)
    return _Form(opening, pattern, parse, tagged)


_FORMS = (
    _form("<tool_call>", r".*?", r"</tool_call>", _from_tag),
    _form("[TOOL_CALLS]", r".*", r"(?!)", _from_mistral),
    _form("<|python_tag|>", r".*", r"(?!)", _from_json),
    _form("<|tool_call>", r".*?", r"<tool_call\|>", _from_gemma),
    _form("<start_function_call>", r".*?", r"<end_function_call>", _from_gemma),
    _form("```tool_code", r".*?", r"```", _from_python, tagged=False),
    _form("```json", r".*?", r"```", _from_json, tagged=False),
)
_BARE = (("{", _from_json), ("[", _from_json), ("[", _from_python))
"""Forms without any tag: the whole answer must be one."""


def parse_tool_calls(text: str, offered: Collection[str] = ()) -> Reading:
    """Split an answer into its words and its tool calls.

    Args:
        text: The answer, with the markers of `CALL_MARKERS` still in it.
        offered: Names of the tools that the model was offered.
    """
    reader = CallReader(offered)
    words = reader.feed(text) + reader.end()
    return Reading(words.strip(), reader.calls, reader.invalid)


class CallReader:
    """Reads an answer as it grows: words go through, a call is held back until it is whole."""

    def __init__(self, offered: Collection[str] = ()) -> None:
        """Start before the first piece; `offered` names the tools that the model may call."""
        self._offered = frozenset(offered)
        self._held = ""
        self._begun = False
        self.calls: list[ToolCall] = []
        self.invalid: list[InvalidToolCall] = []

    def feed(self, piece: str) -> str:
        """Take a piece of the answer and return the words that may leave now."""
        self._held += piece
        words = ""
        while (step := self._next()) is not None:
            words += step
        return words

    def end(self) -> str:
        """Read what was held back, the answer being over, and return the words in it."""
        text, self._held = self._held, ""
        if self._bare(text):
            return ""
        words, at = "", 0
        for start, form in _openings(text):
            match = form.pattern.match(text, start) if start >= at else None
            if match is not None and self._take(form, match):
                words, at = words + text[at:start], match.end()
        return words + text[at:]

    def _next(self) -> str | None:
        """Return the next words that may leave, `None` when nothing may."""
        if not self._begun and self._held.lstrip()[:1] in ("{", "[", ""):
            return None if self._offered or not self._held else self._words(self._safe())
        start, form = next(_openings(self._held), (None, None))
        if start is None or form is None:
            return self._words(self._safe())
        if start > 0:
            return self._words(start)
        match = form.complete(self._held)
        if match is None:
            return None
        if not self._take(form, match):
            return self._words(match.end())
        self._held, self._begun = self._held[match.end() :], True
        return ""

    def _words(self, until: int) -> str | None:
        words, self._held = self._held[:until], self._held[until:]
        self._begun = self._begun or bool(words.strip())
        return words or None

    def _safe(self) -> int:
        """Return how much of what is held cannot be the beginning of a call any more."""
        longest = max(len(form.opening) for form in _FORMS)
        for start in range(max(0, len(self._held) - longest), len(self._held)):
            if any(form.opening.startswith(self._held[start:]) for form in _FORMS):
                return start
        return len(self._held)

    def _bare(self, text: str) -> bool:
        """Read an answer that is a call and nothing else."""
        stripped = text.strip()
        for first, parse in _BARE:
            if self._begun or not self._offered or not stripped.startswith(first):
                continue
            try:
                calls = [_checked(call) for call in parse(stripped)]
            except (ValueError, KeyError, TypeError, AttributeError, SyntaxError):
                continue
            if calls and all(name in self._offered for name, _ in calls):
                self._add(calls)
                return True
        return False

    def _take(self, form: _Form, match: re.Match[str]) -> bool:
        """Read a form and return whether it is a call, one that can be made or one that cannot."""
        try:
            calls = [_checked(call) for call in form.parse(match["body"].strip())]
        except (ValueError, KeyError, TypeError, AttributeError, SyntaxError) as error:
            if form.tagged:
                reason = f"not a tool call: {type(error).__name__}"
                self.invalid.append(invalid_tool_call(name=None, args=match["body"], id=_call_id(), error=reason))
            return form.tagged
        if not form.tagged and not (calls and all(name in self._offered for name, _ in calls)):
            return False
        self._add(calls)
        return True

    def _add(self, calls: list[tuple[str, dict[str, object]]]) -> None:
        self.calls += [tool_call(name=name, args=arguments, id=_call_id()) for name, arguments in calls]


def _openings(text: str) -> Iterator[tuple[int, _Form]]:
    """Yield where forms open, from left to right."""
    found = [(match.start(), form) for form in _FORMS for match in re.finditer(re.escape(form.opening), text)]
    yield from sorted(found, key=lambda one: one[0])


def _checked(call: tuple[object, object]) -> tuple[str, dict[str, object]]:
    name, arguments = call
    if not isinstance(name, str) or not name:
        msg = "a call needs a name"
        raise ValueError(msg)
    if not isinstance(arguments, Mapping | list):
        msg = "the arguments of a call are an object"
        raise TypeError(msg)
    return name, dict(arguments)


def _call_id() -> str:
    return f"call_{uuid4().hex[:9]}"
