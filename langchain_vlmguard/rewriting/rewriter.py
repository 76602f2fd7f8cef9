"""The reasoning rewriter: threats, then intent, then a prompt that an unchanged model can answer safely and usefully."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Any, Self

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import merge_configs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from langchain_vlmguard.content.messages import is_read, read_turn, turn_start
from langchain_vlmguard.errors import RewriteError, UnreadableContentError
from langchain_vlmguard.rewriting.prompts import rewriter_messages
from langchain_vlmguard.verdict import Action, Channel, HazardId, Risk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.language_models import BaseChatModel

INTERNAL: RunnableConfig = {"tags": ["nostream"], "run_name": "vlmguard_rewriter"}
"""Keeps the rewriter's own tokens out of the caller's streams."""


_LONGEST_RATIONALE = 500


def _cut(text: Any) -> Any:
    return text[:_LONGEST_RATIONALE] if isinstance(text, str) else text


class Threat(BaseModel):
    """One way in which the turn could do harm."""

    model_config = ConfigDict(frozen=True)

    channel: Channel
    hazard: HazardId
    rationale: Annotated[str, BeforeValidator(_cut)] = ""
    """Cut after 500 characters: a wordy reason is no reason to fail."""


class RiskReport(BaseModel):
    """The rewriter's reasoning: what could do harm, and what the person really wants."""

    model_config = ConfigDict(frozen=True)

    threats: list[Threat] = Field(description="What could do harm, by channel. Empty when nothing could.")
    intent: str = Field(description="What the person most likely wants.")
    legitimate_part: str = Field(default="", description="The part of it that is legitimate.")


class Rewrite(RiskReport):
    """The risk report and what follows from it, in the order in which the rewriter reasons."""

    action: Action
    risk: Risk = Field(description="From 0, none, to 1, certain and severe.")
    rewritten_prompt: str | None = Field(default=None, description="The new prompt; only with action 'rewrite'.")

    @model_validator(mode="after")
    def _prompt_goes_with_rewrite(self) -> Self:
        if self.action == "rewrite" and not (self.rewritten_prompt or "").strip():
            msg = "action 'rewrite' needs a rewritten prompt"
            raise ValueError(msg)
        if self.action != "rewrite" and (self.rewritten_prompt or "").strip():
            msg = f"a rewritten prompt cannot go with action {self.action!r}"
            raise ValueError(msg)
        return self


class ReasoningRewriter(Runnable[list[BaseMessage], Rewrite]):
    """Reasons over text, pictures and their combination, and rewrites the prompt (VLMGuard-R1, arXiv 2504.12661).

    `x_T' = R(x_T, x_I, A)`: the risk report `A` is written first and the rewritten prompt after it, in one generation.

    ??? example "From any chat model"

        ```python
        rewriter = ReasoningRewriter.from_model(chat_model)
        rewrite = rewriter.invoke([HumanMessage("...")])
        ```
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        system_prompt: str | None = None,
        max_retries: int = 1,
        structured: bool | None = None,
    ) -> None:
        """Use `from_model`; `structured` forces or forbids the model's structured output."""
        self.model = model
        self.system_prompt = system_prompt
        self.max_retries = max_retries
        self._structured = _structured_model(model) if structured is not False else None
        if structured and self._structured is None:
            msg = f"{type(model).__name__} has no structured output: leave `structured` out to use delimited text"
            raise ValueError(msg)

    @classmethod
    def from_model(
        cls,
        model: BaseChatModel,
        *,
        system_prompt: str | None = None,
        max_retries: int = 1,
        structured: bool | None = None,
    ) -> Self:
        """Make a rewriter from any LangChain chat model.

        Structured output is used where the model has it; otherwise delimited text and a strict parser.

        Args:
            model: The chat model; it should read pictures if the agent does.
            system_prompt: Another instruction; `{hazards}` and `{boundary}` are filled in.
            max_retries: How often an unusable answer is asked for again.
            structured: `True` insists on structured output, `False` does without.
        """
        return cls(model, system_prompt=system_prompt, max_retries=max_retries, structured=structured)

    @property
    def identity(self) -> str:
        """What a verdict calls this rewriter."""
        name = getattr(self.model, "model_name", None) or getattr(self.model, "model", None)
        return f"{type(self.model).__name__}:{name}" if isinstance(name, str) else type(self.model).__name__

    def invoke(self, input: Sequence[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any) -> Rewrite:  # noqa: A002
        """Judge a conversation and rewrite the prompt of its last turn.

        Args:
            input: The messages, oldest first; the last turn is judged in the light of what came before it.
            config: Config of the call.
            **kwargs: Passed to the model.

        Raises:
            RewriteError: The model gave no usable answer, retries included.
            UnreadableContentError: A part of the last turn cannot be read; the error names it.
        """
        return self._call_with_config(lambda asked, config: self._rewrite(asked, config, kwargs), list(input), config)

    async def ainvoke(
        self,
        input: Sequence[BaseMessage],  # noqa: A002 - the interface's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Rewrite:
        """Judge a conversation and rewrite the prompt of its last turn, without blocking the event loop.

        Args:
            input: The messages, oldest first; the last turn is judged in the light of what came before it.
            config: Config of the call.
            **kwargs: Passed to the model.

        Raises:
            RewriteError: The model gave no usable answer, retries included.
            UnreadableContentError: A part of the last turn cannot be read; the error names it.
        """

        async def rewrite(asked: list[BaseMessage], config: RunnableConfig) -> Rewrite:
            return await self._arewrite(asked, config, kwargs)

        return await self._acall_with_config(rewrite, list(input), config)  # type: ignore[arg-type]

    def _rewrite(self, asked: list[BaseMessage], config: RunnableConfig, kwargs: dict[str, Any]) -> Rewrite:
        messages, config, problem = _readable(asked), merge_configs(ensure_config(config), INTERNAL), None
        for _ in range(self.max_retries + 1):
            answer = self._runnable.invoke(self._prompt(messages, problem), config, **kwargs)
            parsed, problem = self._parse(answer, messages)
            if parsed:
                return parsed
        raise _unusable(problem, self.max_retries)

    async def _arewrite(self, asked: list[BaseMessage], config: RunnableConfig, kwargs: dict[str, Any]) -> Rewrite:
        messages = await asyncio.to_thread(_readable, asked)
        config, problem = merge_configs(ensure_config(config), INTERNAL), None
        for _ in range(self.max_retries + 1):
            answer = await self._runnable.ainvoke(self._prompt(messages, problem), config, **kwargs)
            parsed, problem = self._parse(answer, messages)
            if parsed:
                return parsed
        raise _unusable(problem, self.max_retries)

    @property
    def _runnable(self) -> Runnable[Any, Any]:
        return self._structured or self.model

    def _prompt(self, messages: list[BaseMessage], problem: str | None) -> list[BaseMessage]:
        delimited = self._structured is None
        return rewriter_messages(messages, system_prompt=self.system_prompt, delimited=delimited, problem=problem)

    def _parse(self, answer: Any, messages: list[BaseMessage]) -> tuple[Rewrite | None, str | None]:
        """Return a usable rewrite, or what is wrong with the answer."""
        try:
            rewrite = _from_structured(answer) if self._structured else parse_delimited(_text(answer))
        except (ValidationError, ValueError) as error:
            return None, _first_line(error)
        if repeats_prompt(rewrite, messages):
            return None, "the rewritten prompt is the original one"
        return rewrite, None


def repeats_prompt(rewrite: Rewrite, messages: Sequence[BaseMessage]) -> bool:
    """Say whether the rewritten prompt is what the people of the last turn wrote, but for case and spaces."""
    wrote = [str(m.text) for m in messages[turn_start(messages) :] if isinstance(m, HumanMessage)]
    originals = [*wrote, " ".join(wrote)]
    new = rewrite.rewritten_prompt
    return new is not None and any(_same_words(new, original) for original in originals)


def _readable(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Return the messages with every picture in the standard form; messages that a guard has read are as they were."""
    if all(map(is_read, messages)):
        return messages
    turn = read_turn(messages)
    for part in turn.unjudged:
        msg = f"{part.where} ({part.kind}) cannot be judged: {part.reason}"
        raise UnreadableContentError(msg)
    return turn.messages


_TAGS = ("threats", "intent", "legitimate", "action", "risk", "prompt")
_DELIMITED = re.compile(
    r"\s*" + r"\s*".join(rf"<{tag}>(?P<{tag}>(?:(?!</?(?:{'|'.join(_TAGS)})>).)*)</{tag}>" for tag in _TAGS) + r"\s*",
    re.DOTALL,
)


def parse_delimited(text: str) -> Rewrite:
    """Read the delimited form strictly: every tag once, in order, nothing around them.

    Raises:
        ValueError: The text has another form, or a field another value than it may have.
    """
    found = _DELIMITED.fullmatch(text)
    if found is None:
        msg = f"it does not hold exactly the tags {', '.join(_TAGS)}, each once and in this order"
        raise ValueError(msg)
    fields = {tag: found[tag].strip() for tag in _TAGS}
    lines = [line for line in fields["threats"].splitlines() if line.strip()]
    return Rewrite(
        threats=[] if [line.strip().casefold() for line in lines] == ["none"] else [_threat(line) for line in lines],
        intent=fields["intent"],
        legitimate_part=fields["legitimate"],
        action=fields["action"],  # type: ignore[arg-type]
        risk=fields["risk"],  # type: ignore[arg-type]
        rewritten_prompt=fields["prompt"] or None,
    )


def _threat(line: str) -> Threat:
    channel, _, rest = line.partition("|")
    hazard, _, rationale = rest.partition("|")
    return Threat(channel=channel.strip(), hazard=hazard.strip(), rationale=rationale.strip())  # type: ignore[arg-type]


def _structured_model(model: BaseChatModel) -> Runnable[Any, Any] | None:
    try:
        return model.with_structured_output(Rewrite, include_raw=True)
    except (NotImplementedError, AttributeError):
        return None


def _from_structured(answer: Any) -> Rewrite:
    parsed = answer.get("parsed") if isinstance(answer, dict) else answer
    if isinstance(parsed, Rewrite):
        return parsed
    if isinstance(parsed, dict):
        return Rewrite.model_validate(parsed)
    msg = "it is not the structured result that was asked for"
    raise ValueError(msg)


def _text(answer: Any) -> str:
    return str(answer.text) if isinstance(answer, AIMessage) else str(answer)


def _same_words(one: str, other: str) -> bool:
    return one.casefold().split() == other.casefold().split()


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
    return str(error).splitlines()[0]


def _unusable(problem: str | None, retries: int) -> RewriteError:
    return RewriteError(f"the rewriter gave no usable answer in {retries + 1} attempts: {problem}")
