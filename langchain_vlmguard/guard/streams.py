"""What must not be seen before it was judged reaches no stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.runnables.config import ensure_config, merge_configs

if TYPE_CHECKING:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.runnables import RunnableConfig


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
        {**around, "callbacks": without_streams(chosen)}, {"tags": ["nostream"], "callbacks": list(handlers)}
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


def _feeds_stream(handler: object) -> bool:
    return hasattr(handler, "tap_output_iter")
