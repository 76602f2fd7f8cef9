"""The calls that the guard makes of models: what they returned, cost and failed with."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables.config import ensure_config, merge_configs
from langgraph.errors import GraphBubbleUp

from langchain_vlmguard.content.carriers import is_mark
from langchain_vlmguard.errors import RewriteError
from langchain_vlmguard.guard.streams import muted_config
from langchain_vlmguard.rewriting.rewriter import Rewrite, repeats_prompt
from langchain_vlmguard.verdict.failures import failure_of
from langchain_vlmguard.verdict.records import SteeringTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.verdict.draft import Draft
    from langchain_vlmguard.verdict.records import GuardFailure


class TokenCounter(BaseCallbackHandler):
    """Adds up the tokens of every model call below one config, whether or not the model says its name."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.tokens: Counter[str] = Counter()

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        """Take no notice; a handler without this method has every conversation put in words for it."""

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Count one call."""
        for generations in response.generations:
            message = generations[0].message if generations and isinstance(generations[0], ChatGeneration) else None
            usage = message.usage_metadata if isinstance(message, AIMessage) else None
            self.tokens.update({key: value for key, value in (usage or {}).items() if isinstance(value, int)})


def unmuted(config: RunnableConfig) -> RunnableConfig:
    """Return the config around this call, for an inner call that may stream, with the token counters of a muted one."""
    callbacks: Any = config.get("callbacks") or []
    handlers = callbacks if isinstance(callbacks, list) else callbacks.handlers
    return merge_configs(ensure_config(), {"callbacks": [one for one in handlers if isinstance(one, TokenCounter)]})


@dataclass
class Call:
    """One step of the guard: as a context manager it keeps the step's failure; it counts tokens and seconds."""

    stage: Literal["inspect", "rewrite", "answer"]
    raises: bool = False
    """Let errors through, for a face whose caller handles the model's own errors."""

    failure: GuardFailure | None = None
    counter: TokenCounter = field(default_factory=TokenCounter)
    started: float = field(default_factory=time.perf_counter)

    @property
    def config(self) -> RunnableConfig:
        """Config of an inner call: traced below this one, its tokens counted, none of them on a stream."""
        return muted_config(self.counter)

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        """Keep a failure; interrupts and cancellations go on."""
        if self.raises or not isinstance(error, Exception) or isinstance(error, GraphBubbleUp):
            return False
        self.failure = failure_of(self.stage, error)
        return True

    def charge(self, draft: Draft, stage: str | None = None) -> Draft:
        """Return the draft with what this step cost, under the step's name or another one."""
        return draft.spend(stage or self.stage, time.perf_counter() - self.started, dict(self.counter.tokens))


@dataclass(frozen=True)
class Answer:
    """What the model said, with the metadata that verdicts use checked."""

    message: AIMessage
    steering: SteeringTrace | None
    model: dict[str, str]
    """Fields of the verdict's provenance that the model named."""

    @classmethod
    def of(cls, message: Any) -> Self:
        """Read an answer.

        Raises:
            TypeError: The model did not return an `AIMessage`.
            ValidationError: The steering trace is malformed.
        """
        if not isinstance(message, AIMessage):
            msg = f"the model returned {type(message).__name__} where an AIMessage was expected: use a chat model"
            raise TypeError(msg)
        metadata = message.response_metadata
        trace = metadata.get("steering")
        given = provenance if isinstance(provenance := metadata.get("provenance"), dict) else {}
        named = {"model": metadata.get("model_name"), **{key: given.get(key) for key in _FROM_MODEL}}
        return cls(
            message,
            None if trace is None else SteeringTrace.model_validate(trace),
            {key: value for key, value in named.items() if isinstance(value, str) and is_mark(value)},
        )


_FROM_MODEL = ("steering", "directions", "anchors", "probe")
"""Fields of a verdict's provenance that a steered model knows."""


def checked_rewrite(result: Any, messages: Sequence[BaseMessage]) -> Rewrite:
    """Return what a rewriter said.

    Raises:
        ValidationError: It is not a rewrite.
        RewriteError: The "rewritten" prompt is the original one.
    """
    rewrite = result if isinstance(result, Rewrite) else Rewrite.model_validate(result)
    if repeats_prompt(rewrite, messages):
        msg = "the rewritten prompt is the original one"
        raise RewriteError(msg)
    return rewrite
