"""What a chat request may say, and its conversation as messages that the guard reads.

What is not listed here is refused by name or dropped, and never forwarded. Nothing that a caller says changes the policy.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal, Self

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from langchain_vlmguard.content.walk import texts_in
from langchain_vlmguard.serving.http_errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.verdict.records import Json

OFFERED = "vlmguard-offered"
"""Id of the message that shows the guard what stands beside the conversation: tools and schemas. No model gets it."""

ACCOUNTS = frozenset(
    {"metadata", "user", "safety_identifier", "prompt_cache_key", "service_tier", "guardrails", "vlmguard"}
)
"""Taken from clients that send them, and never forwarded: they are about the caller's own accounts, or name other guards."""

_DROPPED = ACCOUNTS | {"request_headers", "litellm_metadata"}

_REFUSED = {
    "functions": "send tools in its place",
    "function_call": "send tool_choice in its place",
    "audio": "answers are text",
    "modalities": "answers are text",
    "prediction": "leave it out",
    "web_search_options": "offer a tool in its place",
    "store": "nothing is stored here",
    "background": "answers come at once, judged",
    "previous_response_id": "nothing is stored here: send the whole conversation",
}
"""Known elsewhere, and not here."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Function(_Part):
    name: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


class Tool(_Part):
    """A function that the model may call."""

    type: Literal["function"]
    function: _Function


class HostedTool(BaseModel):
    """A tool that the model's own server runs: kept as it came, and its words are judged like any others."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")


def _kind_of(tool: object) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "hosted" if isinstance(kind, str) and kind != "function" else "own"


_AnyTool = Annotated[Annotated[Tool, Tag("own")] | Annotated[HostedTool, Tag("hosted")], Discriminator(_kind_of)]


class _Named(_Part):
    name: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")


class _Choice(_Part):
    type: Literal["function"]
    function: _Named


class _Called(_Part):
    name: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")
    arguments: str


_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
"""A mark, which no model reads as words."""


class _Call(_Part):
    id: _Id
    type: Literal["function"] = "function"
    function: _Called


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, object]] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: _Id | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: list[object] | None = Field(default=None, max_length=0)
    audio: None = None
    function_call: None = None


class _Schema(_Part):
    name: str
    description: str | None = None
    schema_: dict[str, object] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class _TextFormat(_Part):
    type: Literal["text"]


class _JsonFormat(_Part):
    type: Literal["json_object"]


class _SchemaFormat(_Part):
    type: Literal["json_schema"]
    json_schema: _Schema


class _StreamOptions(_Part):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


_Format = Annotated[_TextFormat | _JsonFormat | _SchemaFormat, Field(discriminator="type")]


class ChatRequest(BaseModel):
    """A request for a chat completion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: list[_Message] = Field(min_length=1)
    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=16)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    parallel_tool_calls: bool | None = None
    tools: list[_AnyTool] | None = Field(default=None, max_length=256)
    tool_choice: Literal["none", "auto", "required"] | _Choice | None = None
    response_format: _Format | None = None

    @model_validator(mode="after")
    def _chooses_what_is_offered(self) -> Self:
        wanted = self.tool_choice.function.name if isinstance(self.tool_choice, _Choice) else None
        if wanted is not None and wanted not in [
            one.function.name for one in self.tools or () if isinstance(one, Tool)
        ]:
            msg = "tool_choice must name an offered tool"
            raise ValueError(msg)
        return self

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def is_plain(self) -> bool:
        """Whether the answer is text for people: no tool, no schema."""
        return not self.tools and (self.response_format is None or self.response_format.type == "text")

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def settings(self) -> Json:
        """What a model is given besides messages, in OpenAI's words; what was left open is left out."""
        beside = {"messages", "model", "stream", "stream_options"}
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=beside)

    @property
    def conversation(self) -> list[BaseMessage]:
        """The messages as the guard reads them; the words of tools and schemas come first, in one message of their own."""
        read = [_as_message(one, at) for at, one in enumerate(self.messages)]
        return [SystemMessage(self._offered, id=OFFERED), *read] if self._offered else read

    @property
    def _offered(self) -> str:
        """What tools and schemas say to the model."""
        given = [one.function if isinstance(one, Tool) else one for one in self.tools or ()]
        tools = [one.model_dump(exclude_none=True) for one in given]
        wanted = self.response_format.json_schema if isinstance(self.response_format, _SchemaFormat) else None
        schema = [] if wanted is None else [wanted.model_dump(by_alias=True, exclude_none=True)]
        parts = [_in_words(one) for one in (*tools, *schema)]
        return "\n".join(["Offered beside the conversation:", *parts]) if parts else ""


def chat_request(body: Json) -> ChatRequest:
    """Check a body.

    Raises:
        HttpError: Naming the parameter, if it is one that we know.
    """
    refuse_known(body, _REFUSED)
    given = {key: value for key, value in body.items() if key not in _DROPPED and key not in _REFUSED}
    try:
        wanted = ChatRequest.model_validate(given)
    except ValidationError as error:
        raise invalid(error) from error
    for at, tool in enumerate(wanted.tools or ()):
        if isinstance(tool, HostedTool) and any("://" in text for text in texts_in(tool.model_dump())):
            msg = f"tools[{at}] names an address: what a model reads there, nobody here can judge"
            raise HttpError(400, "invalid_request", msg, f"tools[{at}]")
    return wanted


def refuse_known(body: Json, elsewhere: Mapping[str, str]) -> None:
    """Refuse parameters that are known elsewhere, and not here.

    Args:
        body: What came.
        elsewhere: Their names, and what to do in their place.

    Raises:
        HttpError: The body asks for one of them.
    """
    for name, instead in elsewhere.items():
        if body.get(name) not in (None, False):
            raise HttpError(400, "invalid_request", f"{name} is not known here: {instead}", name)


def invalid(error: ValidationError, names: Collection[str] | None = None) -> HttpError:
    """Return what a caller hears of parameters that are wrong: places that we know, and none of what stands there.

    Args:
        error: What is wrong.
        names: Names of ours that may stand in a place; those of a chat request if it is `None`.
    """
    ours = _NAMES if names is None else names
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    unknown = first["type"] == "extra_forbidden"
    loc = first["loc"][:-1] if unknown else first["loc"]
    place = "".join(
        f"[{one}]" if isinstance(one, int) else f".{one}" for one in loc if _is_ours(one, ours)
    ).removeprefix(".")
    where = place or "the body"
    said = "holds a parameter that is not known here" if unknown else f"cannot be used: {_said(first['type'])}"
    return HttpError(400, "invalid_request", f"{where} {said}", place or None)


def _is_ours(part: int | str, ours: Collection[str]) -> bool:
    """Whether a part of a place is a name of ours: names of a caller's own making are never repeated."""
    return isinstance(part, int) or part in ours


_NAMES = frozenset(
    name
    for model in (ChatRequest, Tool, _Message, _Function, _Choice, _Called, _Call, _Schema, _SchemaFormat, _StreamOptions)
    for name in model.model_fields
) | {"json_schema", "schema"}  # fmt: skip


def _said(kind: str) -> str:
    """Return pydantic's kind of error in words; its own words may quote what came."""
    return {"missing": "it is missing"}.get(kind, kind.replace("_", " "))


def _in_words(value: object) -> str:
    """Return a tool or schema as the model reads it: every name and word of it."""
    return json.dumps(value, ensure_ascii=False)


def _as_message(message: _Message, at: int) -> BaseMessage:
    content = _content(message.content, f"messages[{at}].content")
    if message.role == "tool":
        if not message.tool_call_id:
            raise HttpError(400, "invalid_request", f"messages[{at}].tool_call_id is missing", f"messages[{at}]")
        return ToolMessage(content, tool_call_id=message.tool_call_id, name=message.name)
    if message.role == "user":
        return HumanMessage(content, name=message.name)
    if message.role in ("system", "developer"):
        return SystemMessage(content, name=message.name)
    return _answer(message, content, at)


def _answer(message: _Message, content: str | list[str | dict[str, object]], at: int) -> AIMessage:
    """Return an earlier answer; what was thought for it is over, and is left out."""
    calls = [_call(one, at) for one in message.tool_calls or ()]
    return AIMessage(content or message.refusal or "", tool_calls=calls, name=message.name)


def _call(call: _Call, at: int) -> Json:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError) as error:
        msg = f"messages[{at}].tool_calls: arguments must be JSON"
        raise HttpError(400, "invalid_request", msg, f"messages[{at}].tool_calls") from error
    if not isinstance(arguments, dict):
        msg = f"messages[{at}].tool_calls: arguments must be a JSON object"
        raise HttpError(400, "invalid_request", msg, f"messages[{at}].tool_calls")
    return {"name": call.function.name, "args": arguments, "id": call.id, "type": "tool_call"}


def _content(given: str | list[dict[str, object]] | None, where: str) -> str | list[str | dict[str, object]]:
    if given is None:
        return ""
    if isinstance(given, str):
        return given
    return [_block(part, f"{where}[{at}]") for at, part in enumerate(given)]


def _block(part: dict[str, object], where: str) -> dict[str, object]:
    """Return a part of a message in the two forms that are read: text and pictures. Whatever else is in it is left out."""
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "text", "text": part["refusal"]}
    if kind in ("image_url", "input_image"):
        given = part.get("image_url")
        url = given.get("url") if isinstance(given, dict) else given
        detail = given.get("detail") if isinstance(given, dict) else part.get("detail")
        kept = {"detail": detail} if detail in ("auto", "low", "high") else {}
        if isinstance(url, str):
            return {"type": "image_url", "image_url": {"url": url, **kept}}
    msg = f"{where} is neither text nor a picture: only parts of type text and image_url are read"
    raise HttpError(400, "unreadable_content", msg, where)
