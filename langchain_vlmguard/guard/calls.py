"""The calls that the guard makes of models: what they returned, cost and failed with."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import merge_configs
from langgraph.errors import GraphBubbleUp

from langchain_vlmguard.content.messages import blocks_of, is_call, words_of
from langchain_vlmguard.errors import RewriteError
from langchain_vlmguard.guard.judges import identity_of
from langchain_vlmguard.rewriting.rewriter import Rewrite, repeats_prompt
from langchain_vlmguard.verdict.records import GuardFailure, SteeringTrace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.guard.pictures import TextJudge
    from langchain_vlmguard.verdict.policy import GuardPolicy


_log = logging.getLogger(__name__)


@dataclass
class Call:
    """One call of a model from a node: catches its failure, counts its tokens and its seconds."""

    stage: Literal["inspect", "rewrite", "answer"]
    result: Any = None
    failure: GuardFailure | None = None
    usage: UsageMetadataCallbackHandler = field(default_factory=UsageMetadataCallbackHandler)
    started: float = field(default_factory=time.perf_counter)

    @property
    def config(self) -> RunnableConfig:
        """Config of the inner call.

        It is traced under the node like any other. Its tokens reach no stream before they are judged: handlers that feed
        streams (`stream_mode="messages"`, `astream_events`) are left out.
        """
        around = ensure_config()
        return merge_configs(
            {**around, "callbacks": without_streams(around.get("callbacks"))},
            {"tags": ["nostream"], "callbacks": [self.usage]},
        )

    def __enter__(self) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        """Keep a failure; interrupts and cancellations go on."""
        if not isinstance(error, Exception) or isinstance(error, GraphBubbleUp):
            return False
        _log.warning(
            "the %s step failed: %s", self.stage, type(error).__name__, exc_info=_log.isEnabledFor(logging.DEBUG)
        )
        self.failure = GuardFailure(
            stage=self.stage, error=type(error).__name__, reason=f"the {self.stage} step failed"
        )
        return True

    def into(self, draft: dict[str, Any], policy: GuardPolicy) -> dict[str, Any]:
        """Return the draft with this call's tokens, time and failure."""
        used = Counter(draft.get("usage", {}))
        for one in self.usage.usage_metadata.values():
            used.update({key: value for key, value in one.items() if isinstance(value, int)})
        draft = timed({**draft, "usage": dict(used)}, self.stage, self.started)
        if self.failure is not None:
            draft |= {"action": policy.on_error, "failure": self.failure.model_dump()}
            draft["reason"] = f"The guard could not finish the {self.stage} step ({self.failure.error})."
        return draft


@dataclass
class RewriteCall(Call):
    """A call of the rewriter, with what it is shown."""

    rewriter: Runnable[Any, Rewrite] = None  # type: ignore[assignment]
    messages: Sequence[BaseMessage] = ()


@dataclass(frozen=True)
class Answer:
    """What the model said, with the metadata that verdicts use checked."""

    message: AIMessage
    steering: dict[str, Any] | None
    provenance: dict[str, str]
    risk: float | None = None
    """Risk of its words, where they were judged."""

    judge: str | None = None
    """Who judged them."""

    second_risk: float | None = None
    """Risk of what a second reader would have said, where one was asked."""

    second_reader: str | None = None
    """Who that was."""

    @classmethod
    def of(cls, message: Any) -> Self:
        """Read an answer.

        Raises:
            TypeError: It is no AI message.
            ValidationError: Its steering trace is none.
        """
        if not isinstance(message, AIMessage):
            msg = f"the model returned {type(message).__name__} where an AIMessage was expected: use a chat model"
            raise TypeError(msg)
        metadata = message.response_metadata
        trace = metadata.get("steering")
        steering = None if trace is None else SteeringTrace.model_validate(trace).model_dump()
        given = metadata.get("provenance") or {}
        named = {"model": metadata.get("model_name"), **{key: given.get(key) for key in _FROM_MODEL}}
        return cls(message, steering, {key: value for key, value in named.items() if isinstance(value, str)})

    @property
    def words(self) -> list[str]:
        """What it says, and each call as its name and values; a judge reads them as if somebody had typed them."""
        said = "\n".join(words_of(block) for block in blocks_of(self.message) if not is_call(block))
        calls = [" ".join([call["name"], *map(str, call["args"].values())]) for call in self.message.tool_calls]
        broken = [f"{call['name']} {call['args']}" for call in self.message.invalid_tool_calls]
        return [text for text in (said, *calls, *broken) if text.strip()]

    @property
    def worst(self) -> float | None:
        """The highest risk that was found, `None` where nothing was judged."""
        found = [risk for risk in (self.risk, self.second_risk) if risk is not None]
        return max(found, default=None)

    def judged(self, judge: TextJudge | None) -> Self:
        """Return the answer with the highest risk of what it says."""
        if judge is None or not (words := self.words):
            return self
        return replace(self, risk=max(judge.judge_texts(words)), judge=identity_of(judge))


_FROM_MODEL = ("steering", "directions", "anchors", "probe")
"""Fields of a verdict's provenance that a steered model knows."""


def checked_rewrite(result: Any, messages: Sequence[BaseMessage]) -> Rewrite:
    """Check what any rewriter returned: the original prompt must not pass as rewritten."""
    rewrite = result if isinstance(result, Rewrite) else Rewrite.model_validate(result)
    if repeats_prompt(rewrite, messages):
        msg = "the rewritten prompt is the original one"
        raise RewriteError(msg)
    return rewrite


def without_streams(callbacks: Any) -> Any:
    """Return callbacks without the handlers that feed streams; tracers and other callbacks stay."""
    if callbacks is None or isinstance(callbacks, list):
        return [handler for handler in callbacks or [] if not _feeds_stream(handler)]
    kept = callbacks.copy()
    for handler in [*kept.handlers, *kept.inheritable_handlers]:
        if _feeds_stream(handler):
            kept.remove_handler(handler)
    return kept


def _feeds_stream(handler: object) -> bool:
    return hasattr(handler, "tap_output_iter")


def timed(draft: dict[str, Any], stage: str, started: float) -> dict[str, Any]:
    """Return the draft with the seconds that a stage took."""
    return {**draft, "timings": {**draft.get("timings", {}), stage: round(time.perf_counter() - started, 4)}}
