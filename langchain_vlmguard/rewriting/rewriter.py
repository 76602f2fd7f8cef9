"""The reasoning rewriter: threats, then intent, then a prompt that an unchanged model can answer safely."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Self

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import merge_configs
from pydantic import ValidationError

from langchain_vlmguard.content.messages import EVIDENCE, readable
from langchain_vlmguard.content.turn import messages_of, turn_start
from langchain_vlmguard.errors import RewriteError, extra
from langchain_vlmguard.rewriting.forms import DelimitedForm, Form, form_of, parse_delimited
from langchain_vlmguard.rewriting.likeness import says_nothing, says_the_same
from langchain_vlmguard.rewriting.prompts import rewriter_messages
from langchain_vlmguard.rewriting.replies import is_quotable, report_in, spoken
from langchain_vlmguard.rewriting.report import Model, Rewrite, RiskReport, Threat
from langchain_vlmguard.rewriting.short_form import ShortForm
from langchain_vlmguard.rewriting.sources import is_local, model_of, name_of
from langchain_vlmguard.rewriting.structured import first_line, from_structured, structured_of, with_arguments
from langchain_vlmguard.rewriting.told_stages import areport_stages, report_stages
from langchain_vlmguard.verdict.rules import told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
    from langchain_vlmguard.verdict.records import Json
    from langchain_vlmguard.verdict.rules import Rule

__all__ = ["ReasoningRewriter", "Rewrite", "RiskReport", "Threat", "parse_delimited", "repeats_prompt"]

INTERNAL: RunnableConfig = {"tags": ["nostream"], "run_name": "vlmguard_rewriter"}
"""Keeps the rewriter's own tokens out of the caller's streams."""

_UNPARSED = (ValidationError, OutputParserException, JSONDecodeError)
"""What providers raise when their own parser cannot read an answer, without showing it."""

_log = logging.getLogger(__name__)

_RESAMPLED = {"temperature": 0.7, "seed": 1}
"""How a local model tries again: greedy decoding would say the same."""


class ReasoningRewriter(Runnable[LanguageModelInput, Rewrite]):
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
        model: Model | str,
        *,
        system_prompt: str | None = None,
        max_retries: int = 1,
        structured: bool | None = None,
        timeout: float | None = None,
        form: Form | None = None,
        retry_options: Json | None = None,
        name: str | None = None,
        check_prompt: bool = False,
    ) -> None:
        """Use `from_model` or `from_adapter`."""
        self.rules: tuple[Rule, ...] = ()
        self.model = model_of(model)
        self.system_prompt = system_prompt
        self.max_retries = max_retries
        self.timeout = timeout
        self.form = form or DelimitedForm()
        self.retry_options = retry_options or {}
        self.check_prompt = check_prompt
        self._named = name
        self._structured = structured_of(self.model) if structured is not False else None
        if structured and self._structured is None:
            msg = f"{type(self.model).__name__} has no structured output: leave `structured` out to use delimited text"
            raise ValueError(msg)

    @classmethod
    def from_model(
        cls,
        model: Model | str,
        *,
        system_prompt: str | None = None,
        max_retries: int = 1,
        structured: bool | None = None,
        timeout: float | None = None,
        examples: bool | None = None,
        check_prompt: bool | None = None,
    ) -> Self:
        """Make a rewriter from any LangChain chat model.

        Structured output is used if the model has it; otherwise delimited text and a strict parser. Both are read past a
        model's thinking, code fences and words around a report. Where structured output fails in the provider's own parser,
        the next attempt asks for delimited text.

        Args:
            model: The chat model, or its name as `"provider:model"`; `.bind(...)`, `.with_config(...)`, `.with_retry(...)` and
                `.with_fallbacks(...)` around it are kept. It should read pictures if the agent does.
            system_prompt: Another instruction; `{hazards}` and `{boundary}` are filled in.
            max_retries: How often an unusable or late answer is asked for again.
            structured: `True` insists on structured output, `False` does without.
            timeout: Seconds that one attempt may take; without one, it is the model's own.
            examples: Show the model four examples and ask for the short form (`ShortForm`), which small models can follow. A
                model of this package is asked so by itself, and its decoder holds it to the form.
            check_prompt: Judge every new prompt, too, by one more call; one that is not allowed becomes a refusal. On with
                `examples`: small models also write new prompts that are harmful.

        Raises:
            TypeError: It is no model.
            ValueError: The name is none, tools are bound to the model, it has no structured output and `structured=True`, or
                `structured=True` and `examples=True` are both asked for.
            ImportError: The package of the named provider is not installed.

        ??? example "By name, with another model to fall back to"

            ```python
            ReasoningRewriter.from_model("openai:gpt-4o")
            ReasoningRewriter.from_model(chat_model.with_retry().with_fallbacks([another]))
            ```
        """
        given = model_of(model)
        if examples is None:
            examples = structured is None and is_local(given)
        if examples and structured:
            msg = "examples=True asks for the short form, structured=True for another one: leave one of them out"
            raise ValueError(msg)
        return cls(
            given,
            system_prompt=system_prompt,
            max_retries=max_retries,
            structured=False if examples else structured,
            timeout=timeout,
            form=ShortForm() if examples else None,
            retry_options=_RESAMPLED if examples and is_local(given) else None,
            check_prompt=examples if check_prompt is None else check_prompt,
        )

    @classmethod
    def from_adapter(
        cls,
        steered_vlm: ChatSteeredVLM,
        adapter: str | Path = "testbed",
        *,
        max_retries: int = 1,
        timeout: float | None = None,
        check_weights: bool = True,
    ) -> Self:
        """Make a rewriter from the VLM that answers and a LoRA adapter on it.

        The weights are in memory once. The adapter acts on the rewriting call alone: a concurrent answer of the same model is
        never touched by it, and the rewriting call is never steered.

        Args:
            steered_vlm: The model that answers; its weights are shared.
            adapter: A folder that `vlmguard rewriter train` (or peft) wrote, or `"testbed"` for the shipped one.
            max_retries: How often an unusable or late answer is asked for again, then sampled instead of greedy.
            timeout: Seconds that one attempt may take.
            check_weights: Insist on the very weights that the adapter was trained on.

        Raises:
            AdapterError: The adapter is missing, cannot be read, or does not fit the model.

        ??? example "One set of weights, two roles"

            ```python
            model = ChatSteeredVLM.from_pretrained("testbed")
            rewriter = ReasoningRewriter.from_adapter(model)
            guard = create_vlm_guard(model, rewriter).compile()
            ```
        """
        with extra("local"):
            from langchain_vlmguard.rewriting.adapter import RewriterAdapter

        loaded = RewriterAdapter.load(adapter)
        loaded.check(steered_vlm.loaded.model, weights=check_weights)
        model = steered_vlm.from_loaded(
            steered_vlm.loaded, steering=loaded, max_tokens=loaded.max_tokens, batch_size=steered_vlm.batch_size
        )
        return cls(
            model,
            system_prompt=loaded.system_prompt,
            max_retries=max_retries,
            structured=False,
            timeout=timeout,
            form=form_of(loaded.form, loaded.words),
            retry_options=_RESAMPLED,
            name=f"{steered_vlm.model}+lora:{loaded.identity}",
        )

    @property
    def identity(self) -> str:
        """What a verdict calls this rewriter."""
        if self._named is not None:
            return self._named
        return name_of(self.model)

    def with_rules(self, rules: Sequence[Rule]) -> Self:
        """Return this rewriter, told rules in plain words (and no others).

        Raises:
            ValueError: It is a trained adapter, which knows what it was trained on and cannot be told more.
        """
        if rules and self._named is not None:
            msg = f"{self.identity} is a trained adapter and cannot be told rules: use ReasoningRewriter.from_model"
            raise ValueError(msg)
        told = copy(self)
        told.rules = (*rules,)
        if isinstance(self.form, ShortForm):
            told.form = replace(self.form, rules=tuple(rule.id for rule in rules))
        return told

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Rewrite:  # noqa: A002
        """Judge a conversation and rewrite the prompt of its last turn.

        Args:
            input: What a chat model takes: words, or messages, oldest first. The last turn is judged in the light of the others.
            config: Config of the call.
            **kwargs: Passed to the model.

        Raises:
            RewriteError: The model gave no usable answer, retries included, or the turn holds a report in its own form.
            UnreadableContentError: A part of the last turn cannot be read; the error names it.
        """
        return self._call_with_config(
            lambda asked, config: self._rewrite(asked, config, kwargs), messages_of(input), config
        )

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002 - the interface's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Rewrite:
        """Judge a conversation and rewrite the prompt of its last turn, without blocking the event loop.

        Args:
            input: What a chat model takes: words, or messages, oldest first. The last turn is judged in the light of the others.
            config: Config of the call.
            **kwargs: Passed to the model.

        Raises:
            RewriteError: The model gave no usable answer, retries included, or the turn holds a report in its own form.
            UnreadableContentError: A part of the last turn cannot be read; the error names it.
        """

        async def rewrite(asked: list[BaseMessage], config: RunnableConfig) -> Rewrite:
            return await self._arewrite(asked, config, kwargs)

        return await self._acall_with_config(rewrite, messages_of(input), config)  # type: ignore[arg-type]

    def _rewrite(self, asked: list[BaseMessage], config: RunnableConfig, kwargs: Json) -> Rewrite:
        config = merge_configs(ensure_config(config), INTERNAL)
        found = self._judged(readable(asked), config, kwargs)
        if new := self._to_check(found):
            found = _checked(found, self._judged(new, config, kwargs))
        report_stages(found, config)
        return found

    def _judged(self, messages: list[BaseMessage], config: RunnableConfig, kwargs: Json) -> Rewrite:
        tries = self._tries(messages, kwargs)
        for model, prompt, options in tries:
            try:
                answer = _in_time(partial(model.invoke, prompt, config, **options), self.timeout)
            except (TimeoutError, *_UNPARSED) as error:
                tries.failed(error)
                continue
            if parsed := tries.read(answer):
                return parsed
        raise tries.unusable

    async def _arewrite(self, asked: list[BaseMessage], config: RunnableConfig, kwargs: Json) -> Rewrite:
        config = merge_configs(ensure_config(config), INTERNAL)
        found = await self._ajudged(await asyncio.to_thread(readable, asked), config, kwargs)
        if new := self._to_check(found):
            found = _checked(found, await self._ajudged(new, config, kwargs))
        await areport_stages(found, config)
        return found

    async def _ajudged(self, messages: list[BaseMessage], config: RunnableConfig, kwargs: Json) -> Rewrite:
        tries = self._tries(messages, kwargs)
        for model, prompt, options in tries:
            try:
                answer = await asyncio.wait_for(model.ainvoke(prompt, config, **options), self.timeout)
            except (TimeoutError, *_UNPARSED) as error:
                tries.failed(error)
                continue
            if parsed := tries.read(answer):
                return parsed
        raise tries.unusable

    def _to_check(self, found: Rewrite) -> list[BaseMessage] | None:
        """Return the new prompt as a turn of its own, if it is to be judged."""
        if not self.check_prompt or found.rewritten_prompt is None:
            return None
        return [HumanMessage(found.rewritten_prompt)]

    def _tries(self, messages: list[BaseMessage], kwargs: Json) -> _Tries:
        return _Tries(self, self._genuine(messages), kwargs, structured=self._structured)

    def _genuine(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        """Return the messages.

        Raises:
            RewriteError: The last turn is written in the form of a rewriter's report.
        """
        if self._structured is None and self.form.imitated(messages):
            msg = "the turn holds a report in the rewriter's own form, which it could copy: nothing it says could be relied on"
            raise RewriteError(msg)
        return messages


@dataclass
class _Tries:
    """The attempts of one rewriting: what each one asks, and what became of the last."""

    rewriter: ReasoningRewriter
    messages: list[BaseMessage]
    arguments: Json
    structured: Model | None
    """The model with structured output, as long as that works."""

    problem: str | None = None
    cause: Exception | None = None

    def __iter__(self) -> Iterator[tuple[Model, list[BaseMessage], Json]]:
        """Yield the model to ask, what it is shown and the arguments of its call."""
        rewriter = self.rewriter
        for attempt in range(rewriter.max_retries + 1):
            options = self.arguments | (rewriter.retry_options if attempt else {})
            carrying = None if self.structured is None else with_arguments(self.structured, options)
            if carrying is not None:
                yield carrying, self._prompt, {}
            else:
                yield self.structured or rewriter.form.bound(rewriter.model, self.messages), self._prompt, options

    @property
    def _prompt(self) -> list[BaseMessage]:
        asked = rewriter_messages if self.structured is not None else self.rewriter.form.ask
        system, *others = asked(self.messages, system_prompt=self.rewriter.system_prompt, problem=self.problem)
        return (
            [SystemMessage(f"{system.text}{told(self.rewriter.rules)}"), *others]
            if self.rewriter.rules
            else [system, *others]
        )

    def failed(self, error: Exception) -> None:
        """Note that no answer came in time, or none that the provider's own parser could read."""
        self.cause = error
        if isinstance(error, TimeoutError):
            limit = self.rewriter.timeout
            self.problem = "its model's call timed out" if limit is None else f"it did not come within {limit} s"
        else:
            self.problem, self.structured = first_line(error), None
        self._log()

    def read(self, answer: object) -> Rewrite | None:
        """Return a usable rewrite, or `None` and note what is wrong with the answer."""
        try:
            rewrite = self._parsed(answer)
        except ValueError as error:
            self.problem, self.cause = first_line(error), error
        else:
            if not repeats_prompt(rewrite, self.messages):
                return rewrite
            self.problem, self.cause = "the rewritten prompt is the original one", None
        self._log()
        return None

    def _parsed(self, answer: object) -> Rewrite:
        quotable = is_quotable(self.messages)
        if self.structured is not None:
            return from_structured(answer, quotable=quotable)
        form, text = self.rewriter.form, spoken(answer)
        return form.parse(report_in(text, quotable=quotable) if isinstance(form, DelimitedForm | ShortForm) else text)

    def _log(self) -> None:
        _log.info("an answer of the rewriter %s could not be used: %s", self.rewriter.identity, self.problem)

    @property
    def unusable(self) -> RewriteError:
        """The error after the last attempt."""
        attempts = self.rewriter.max_retries + 1
        error = RewriteError(f"the rewriter gave no usable answer in {attempts} attempts: {self.problem}")
        error.__cause__ = self.cause
        return error


def _checked(found: Rewrite, of_prompt: Rewrite) -> Rewrite:
    """Return a rewrite whose new prompt was judged: a refusal if that is not allowed."""
    if of_prompt.action == "allow":
        return found
    _log.info("a new prompt was not used: judged by itself, it is one to %s", of_prompt.action)
    threats = [*found.threats, *(threat for threat in of_prompt.threats if threat not in found.threats)]
    changed = {"threats": threats, "risk": max(found.risk, of_prompt.risk), "rewritten_prompt": None}
    return found.model_copy(update={**changed, "action": "refuse"})


def _in_time(call: Callable[[], object], timeout: float | None) -> object:
    """Run a call in this context; past the limit it is left to end by itself and its result is never used."""
    if timeout is None:
        return call()
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(copy_context().run, call).result(timeout)
    finally:
        pool.shutdown(wait=False)


def repeats_prompt(rewrite: Rewrite, messages: Sequence[BaseMessage]) -> bool:
    """Whether the rewritten prompt says what the people of the last turn wrote: in other spelling, in a frame, or nothing."""
    turn = [m for m in messages[turn_start(messages) :] if isinstance(m, HumanMessage) and m.name != EVIDENCE]
    wrote = [str(message.text) for message in turn]
    new = rewrite.rewritten_prompt
    if new is None:
        return False
    return says_nothing(new) or any(
        says_the_same(new, original) for original in dict.fromkeys([*wrote, " ".join(wrote)])
    )
