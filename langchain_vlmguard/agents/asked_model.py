"""The agent's model as the guard asks it: through the rest of the agent's middleware, muted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware.types import ModelResponse
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import ensure_config, merge_configs, set_config_context

from langchain_vlmguard.guard.calls import unmuted
from langchain_vlmguard.guard.streams import silent_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain.agents.middleware.types import ModelRequest
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig


class AskedModel(Runnable[Any, Any]):
    """Asks a middleware's handler like a model, and keeps its last response."""

    def __init__(self, request: ModelRequest[Any], handler: Callable[..., Any], *, mutes: bool) -> None:
        """Ask what a request asks, with other messages."""
        self._request, self._handler, self._mutes = request, handler, mutes
        self.response: ModelResponse[Any] | None = None
        self.error: Exception | None = None
        """What was wrong with an answer that can be judged all the same: it did not fit the schema that was asked for."""

    @property
    def model_name(self) -> str:
        """What the model is called in traces and events."""
        return str(self._request.model.get_name())

    def again(self) -> AskedModel:
        """Return the same model for another call, whose response does not mix with that of one under way."""
        return AskedModel(self._request, self._handler, mutes=self._mutes)

    @property
    def result(self) -> list[BaseMessage]:
        """The messages of the last response."""
        return [] if self.response is None else list(self.response.result)

    @property
    def at(self) -> int:
        """Index of the answer among them; -1 if there is none."""
        return max((at for at, one in enumerate(self.result) if isinstance(one, AIMessage)), default=-1)

    @property
    def message(self) -> AIMessage | None:
        """The answer, `None` if the last response holds none."""
        found = self.result[self.at] if self.at >= 0 else None
        return found if isinstance(found, AIMessage) else None

    @property
    def structured_response(self) -> Any:
        """The parsed answer of the last response, if a schema was asked for."""
        return None if self.response is None else self.response.structured_response

    def invoke(self, input: Sequence[BaseMessage], config: RunnableConfig | None = None, **options: Any) -> Any:  # noqa: A002
        """Ask, with more settings of the model in `options`."""
        with set_config_context(self._config(config)) as context:
            try:
                return self._keep(context.run(self._handler, self._asked(input, options)))
            except Exception as error:  # noqa: BLE001 - it goes on unless it brings an answer
                return self._keep_wrong(error)

    async def ainvoke(self, input: Sequence[BaseMessage], config: RunnableConfig | None = None, **options: Any) -> Any:  # noqa: A002
        """Ask without blocking the event loop."""

        async def ask() -> Any:
            return await self._handler(self._asked(input, options))

        with set_config_context(self._config(config)) as context:
            try:
                return self._keep(await asyncio.create_task(ask(), context=context))
            except Exception as error:  # noqa: BLE001 - it goes on unless it brings an answer
                return self._keep_wrong(error)

    def _config(self, config: RunnableConfig | None) -> RunnableConfig:
        if not self._mutes:
            return unmuted(config or {})
        return merge_configs(config or {}, {"callbacks": silent_streams(ensure_config().get("callbacks"))})

    def _asked(self, messages: Sequence[BaseMessage], options: dict[str, Any]) -> ModelRequest[Any]:
        settings = {**self._request.model_settings, **options}
        changes: dict[str, Any] = {"messages": list(messages), **({"model_settings": settings} if options else {})}
        return self._request.override(**changes)

    def _keep(self, response: ModelResponse[Any]) -> AIMessage | None:
        self.response = response
        return self.message

    def _keep_wrong(self, error: Exception) -> AIMessage:
        """Keep an answer that an error brings with it; any other error goes on."""
        said = getattr(error, "ai_message", None)
        if not isinstance(said, AIMessage):
            raise error
        self.error, self.response = error, ModelResponse(result=[said])
        return said
