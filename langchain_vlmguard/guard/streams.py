"""What must not be seen before it was judged reaches no stream; once it was let out, it is shown as if nothing had happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, CallbackManager
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables.config import ensure_config, merge_configs
from langchain_core.tracers import _streaming

from langchain_vlmguard.guard.chunks import whole_chunk
from langchain_vlmguard.guard.effects import Effect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.guard.effects import Flow

MUTED = "nostream"
"""Tag of runs that streams leave out."""


def muted_config(*handlers: BaseCallbackHandler, callbacks: Any = None) -> RunnableConfig:
    """Return the config around this call, for an inner call whose tokens reach no stream.

    Tracers and other callbacks stay. Handlers that feed streams (`stream_mode="messages"`, `astream_events`) are left out.

    Args:
        handlers: Callbacks to add.
        callbacks: Callbacks to start from instead of those around this call.
    """
    around = ensure_config()
    chosen = around.get("callbacks") if callbacks is None else callbacks
    return merge_configs(
        {**around, "callbacks": without_streams(chosen)}, {"tags": [MUTED], "callbacks": list(handlers)}
    )


def without_streams(callbacks: Any) -> Any:
    """Return callbacks without the handlers that feed streams."""
    if callbacks is None or isinstance(callbacks, list):
        return [handler for handler in callbacks or [] if not _feeds_stream(handler)]
    kept = callbacks.copy()
    for handler in [*kept.handlers, *kept.inheritable_handlers]:
        if _feeds_stream(handler):
            kept.remove_handler(handler)
    return kept


def streams_of(callbacks: Any) -> list[BaseCallbackHandler]:
    """Return the handlers among callbacks that feed streams."""
    handlers = (callbacks or []) if callbacks is None or isinstance(callbacks, list) else callbacks.handlers
    return [handler for handler in handlers if _feeds_stream(handler)]


def silent_streams(callbacks: Any) -> list[BaseCallbackHandler]:
    """Return handlers that feed no stream, one of each kind among callbacks that do.

    LangChain asks a provider for a stream because of such handlers: a muted model must be asked as it would be without a guard.
    """
    kinds = {isinstance(one, _EVENTS) for one in streams_of(callbacks)}
    return [_SilentEvents() if of_events else _Silent() for of_events in sorted(kinds)]


def show_answer(message: AIMessage, asked: Sequence[BaseMessage], name: str) -> Flow[None]:
    """Send the events of a chat model that says a message: to event streams, which saw nothing of the muted call.

    LangGraph's own streams read answers from the graph's state, and are left out.

    Args:
        message: What was let out.
        asked: What the model was shown.
        name: The model's name.
    """
    around = ensure_config()
    callbacks: Any = around.get("callbacks")
    handlers = [one for one in streams_of(callbacks) if not type(one).__module__.startswith("langgraph.")]
    if not handlers or message.id is None:
        return
    below: dict[str, Any] = {
        "handlers": handlers,
        "parent_run_id": getattr(callbacks, "parent_run_id", None),
        "tags": [*around.get("tags", [])],
        "metadata": {**around.get("metadata", {})},
    }
    chunk = ChatGenerationChunk(message=whole_chunk(message))
    end = LLMResult(generations=[[ChatGeneration(message=message)]])

    def send() -> None:
        [run] = CallbackManager(**below).on_chat_model_start({"name": name}, [[*asked]], name=name)
        run.on_llm_new_token(chunk.text, chunk=chunk)
        run.on_llm_end(end)

    async def asend() -> None:
        [run] = await AsyncCallbackManager(**below).on_chat_model_start({"name": name}, [[*asked]], name=name)
        await run.on_llm_new_token(chunk.text, chunk=chunk)
        await run.on_llm_end(end)

    yield Effect(send, asend)


class _Silent(BaseCallbackHandler):
    """Looks like a handler that feeds a stream, and feeds none."""

    def tap_output_iter(self, run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:  # noqa: ARG002 - the interface's
        """Hand the output on."""
        return output

    def tap_output_aiter(self, run_id: UUID, output: Any) -> Any:  # noqa: ARG002
        """Hand the output on."""
        return output


_EVENTS: type = getattr(_streaming, "_V2StreamingCallbackHandler", type("_Nobody", (), {}))
"""Marks handlers that want a model's events in place of its chunks."""

_SilentEvents: type[_Silent] = type("_SilentEvents", (_Silent, _EVENTS), {})


def _feeds_stream(handler: object) -> bool:
    return hasattr(handler, "tap_output_iter")
