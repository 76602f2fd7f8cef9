"""The reasoning rewriter: threats, then intent, then a prompt that an unchanged model can answer safely."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import merge_configs

from langchain_vlmguard.content.messages import EVIDENCE, readable
from langchain_vlmguard.content.turn import turn_start
from langchain_vlmguard.errors import RewriteError, extra
from langchain_vlmguard.rewriting.forms import DelimitedForm, Form, form_of, parse_delimited
from langchain_vlmguard.rewriting.likeness import says_nothing, says_the_same
from langchain_vlmguard.rewriting.prompts import rewriter_messages
from langchain_vlmguard.rewriting.replies import is_quotable, report_in, spoken
from langchain_vlmguard.rewriting.report import Rewrite, RiskReport, Threat
from langchain_vlmguard.rewriting.structured import first_line, from_structured, structured_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from langchain_core.language_models import BaseChatModel

    from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM

__all__ = ["ReasoningRewriter", "Rewrite", "RiskReport", "Threat", "parse_delimited", "repeats_prompt"]

INTERNAL: RunnableConfig = {"tags": ["nostream"], "run_name": "vlmguard_rewriter"}
"""Keeps the rewriter's own tokens out of the caller's streams."""

EVENT = "vlmguard_rewriter"
"""Name of the custom events that carry the reasoning, one a stage: `{"stage": "threats" | "intent" | "prompt", ...}`."""

_RESAMPLED = {"temperature": 0.7, "seed": 1}
"""How a local model tries again: greedy decoding would say the same."""


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
        timeout: float | None = None,
        form: Form | None = None,
        retry_options: dict[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        """Use `from_model` or `from_adapter`."""
        self.model = model
        self.system_prompt = system_prompt
        self.max_retries = max_retries
        self.timeout = timeout
        self.form = form or DelimitedForm()
        self._retry_options = retry_options or {}
        self._named = name
        self._structured = structured_of(model) if structured is not False else None
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
        timeout: float | None = None,
    ) -> Self:
        """Make a rewriter from any LangChain chat model.

        Structured output is used if the model has it; otherwise delimited text and a strict parser.

        Args:
            model: The chat model; it should read pictures if the agent does.
            system_prompt: Another instruction; `{hazards}` and `{boundary}` are filled in.
            max_retries: How often an unusable or late answer is asked for again.
            structured: `True` insists on structured output, `False` does without.
            timeout: Seconds that one attempt may take; without one, it is the model's own.
        """
        return cls(model, system_prompt=system_prompt, max_retries=max_retries, structured=structured, timeout=timeout)

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
        name = getattr(self.model, "model_name", None) or getattr(self.model, "model", None)
        return f"{type(self.model).__name__}:{name}" if isinstance(name, str) else type(self.model).__name__

    def invoke(self, input: Sequence[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any) -> Rewrite:  # noqa: A002
        """Judge a conversation and rewrite the prompt of its last turn.

        Args:
            input: The messages, oldest first; the last turn is judged in the light of what came before it.
            config: Config of the call.
            **kwargs: Passed to the model.

        Raises:
            RewriteError: The model gave no usable answer, retries included, or the turn holds a report in its own form.
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
            RewriteError: The model gave no usable answer, retries included, or the turn holds a report in its own form.
            UnreadableContentError: A part of the last turn cannot be read; the error names it.
        """

        async def rewrite(asked: list[BaseMessage], config: RunnableConfig) -> Rewrite:
            return await self._arewrite(asked, config, kwargs)

        return await self._acall_with_config(rewrite, list(input), config)  # type: ignore[arg-type]

    def _rewrite(self, asked: list[BaseMessage], config: RunnableConfig, kwargs: dict[str, Any]) -> Rewrite:
        messages = self._genuine(readable(asked))
        config, problem = merge_configs(ensure_config(config), INTERNAL), None
        for attempt in range(self.max_retries + 1):
            prompt, options = self._prompt(messages, problem), self._options(attempt, kwargs)
            try:
                answer = _in_time(partial(self._runnable.invoke, prompt, config, **options), self.timeout)
            except TimeoutError:
                problem = self._late
                continue
            parsed, problem = self._parse(answer, messages)
            if parsed:
                _report_stages(parsed, config)
                return parsed
        raise _unusable(problem, self.max_retries)

    async def _arewrite(self, asked: list[BaseMessage], config: RunnableConfig, kwargs: dict[str, Any]) -> Rewrite:
        messages = self._genuine(await asyncio.to_thread(readable, asked))
        config, problem = merge_configs(ensure_config(config), INTERNAL), None
        for attempt in range(self.max_retries + 1):
            prompt, options = self._prompt(messages, problem), self._options(attempt, kwargs)
            try:
                answer = await asyncio.wait_for(self._runnable.ainvoke(prompt, config, **options), self.timeout)
            except TimeoutError:
                problem = self._late
                continue
            parsed, problem = self._parse(answer, messages)
            if parsed:
                await _areport_stages(parsed, config)
                return parsed
        raise _unusable(problem, self.max_retries)

    @property
    def _late(self) -> str:
        return f"it did not come within {self.timeout} s"

    @property
    def _runnable(self) -> Runnable[Any, Any]:
        return self._structured or self.model

    def _options(self, attempt: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**kwargs, **self._retry_options} if attempt else kwargs

    def _genuine(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        """Return the messages.

        Raises:
            RewriteError: The last turn is written in the form of a rewriter's report.
        """
        if self._structured is None and self.form.imitated(messages):
            msg = "the turn holds a report in the rewriter's own form, which it could copy: nothing it says could be relied on"
            raise RewriteError(msg)
        return messages

    def _prompt(self, messages: list[BaseMessage], problem: str | None) -> list[BaseMessage]:
        if self._structured is not None:
            return rewriter_messages(messages, system_prompt=self.system_prompt, problem=problem)
        return self.form.ask(messages, system_prompt=self.system_prompt, problem=problem)

    def _parse(self, answer: Any, messages: list[BaseMessage]) -> tuple[Rewrite | None, str | None]:
        """Return a usable rewrite, or what is wrong with the answer."""
        try:
            rewrite = self._read(answer, messages)
        except ValueError as error:
            return None, first_line(error)
        if repeats_prompt(rewrite, messages):
            return None, "the rewritten prompt is the original one"
        return rewrite, None

    def _read(self, answer: object, messages: list[BaseMessage]) -> Rewrite:
        """Read an answer.

        Raises:
            ValueError: It is not usable.
        """
        if self._structured is not None:
            return from_structured(answer, quotable=is_quotable(messages))
        text = spoken(answer)
        written = isinstance(self.form, DelimitedForm)
        return self.form.parse(report_in(text, quotable=is_quotable(messages)) if written else text)


def _in_time(call: Callable[[], Any], timeout: float | None) -> Any:
    """Run a call in this context; past the limit it is left to end by itself and its result is never used."""
    if timeout is None:
        return call()
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(copy_context().run, call).result(timeout)
    finally:
        pool.shutdown(wait=False)


def _stages(rewrite: Rewrite) -> list[dict[str, Any]]:
    plain = rewrite.model_dump(mode="json")
    return [
        {"stage": "threats", "threats": plain["threats"]},
        {"stage": "intent", "intent": plain["intent"], "legitimate_part": plain["legitimate_part"]},
        {"stage": "prompt", **{key: plain[key] for key in ("action", "risk", "rewritten_prompt")}},
    ]


def _report_stages(rewrite: Rewrite, config: RunnableConfig) -> None:
    for data in _stages(rewrite):
        dispatch_custom_event(EVENT, data, config=config)


async def _areport_stages(rewrite: Rewrite, config: RunnableConfig) -> None:
    for data in _stages(rewrite):
        await adispatch_custom_event(EVENT, data, config=config)


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


def _unusable(problem: str | None, retries: int) -> RewriteError:
    return RewriteError(f"the rewriter gave no usable answer in {retries + 1} attempts: {problem}")
