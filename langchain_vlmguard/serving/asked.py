"""The model that a guarded request asks: one object for all requests, told by each what it wants."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import Runnable

from langchain_vlmguard.serving.chat_request import OFFERED
from langchain_vlmguard.serving.http_errors import HttpError
from langchain_vlmguard.serving.upstream import UpstreamChat
from langchain_vlmguard.serving.wire import pictures_in_messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.verdict.records import Json


@dataclass
class ModelCall:
    """What one request wants of the model, and what became of it."""

    settings: Json = field(default_factory=dict)
    """In OpenAI's words."""

    streamed: bool = False
    replay: AIMessage | None = None
    """An answer that a person approved: it is given in place of a new one."""

    error: Exception | None = None
    """What the model raised."""

    said: AIMessage | None = None
    """What it answered last."""

    forwarded: int = 0
    """Pictures that it was shown."""


CALL: ContextVar[ModelCall] = ContextVar("vlmguard_model_call")
"""The request around this call."""


class AskedModel(Runnable["list[BaseMessage]", AIMessage]):
    """Asks a chat model as the request around this call wants it. What the guard alone was shown is left out."""

    def __init__(self, bound: BaseChatModel) -> None:
        """Ask this model."""
        self.bound = bound

    def invoke(self, input: list[BaseMessage], config: RunnableConfig | None = None, **kwargs: object) -> AIMessage:  # noqa: A002
        """Refuse: a server asks on the event loop."""
        raise NotImplementedError

    async def ainvoke(
        self,
        input: list[BaseMessage],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: object,
    ) -> AIMessage:
        """Ask for one answer."""
        [answer] = await self.answers(input, config, **kwargs)
        return answer

    async def answers(
        self, messages: Sequence[BaseMessage], config: RunnableConfig | None = None, **options: object
    ) -> list[AIMessage]:
        """Ask for as many answers as the request wants."""
        call = CALL.get()
        shown = [one for one in messages if one.id != OFFERED]
        call.forwarded, call.error = pictures_in_messages(shown), None
        if call.replay is not None:
            return [call.replay]
        try:
            found = await self._ask(shown, call, config, options)
        except Exception as error:
            call.error = error
            raise
        call.said = found[0]
        return found

    async def _ask(
        self, shown: list[BaseMessage], call: ModelCall, config: RunnableConfig | None, options: Json
    ) -> list[AIMessage]:
        given = settings_for(self.bound, call)
        around = config or {}
        callbacks, tags = around.get("callbacks"), around.get("tags")
        asked = await self.bound.agenerate([shown], callbacks=callbacks, tags=tags, **given, **options)
        said = [one.message for one in asked.generations[0] if isinstance(one, ChatGeneration)]
        answers = [one for one in said if isinstance(one, AIMessage)]
        wanted = int(call.settings.get("n") or 1)
        return answers[:wanted]


def settings_for(model: BaseChatModel, call: ModelCall) -> Json:
    """Return the settings of a request in the words of a model.

    Raises:
        HttpError: The model in this process has no such setting.
    """
    hosted = [at for at, one in enumerate(call.settings.get("tools") or ()) if one["type"] != "function"]
    if hosted and not getattr(model, "hosted_tools", False):
        where = f"tools[{hosted[0]}]"
        raise HttpError(400, "invalid_request", f"{where}: only tools of type function are known here", where)
    if isinstance(model, UpstreamChat):
        return {**call.settings, "streamed": call.streamed}
    return _local(model, call.settings)


_SAME = ("temperature", "top_p", "top_k", "seed", "stop", "logprobs", "top_logprobs", "n")
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
}


def _local(model: BaseChatModel, given: Json) -> Json:
    """Return the settings for a model in this process; what it does not have is refused, not passed over."""
    for name, harmless in _NEUTRAL.items():
        if name in given and given[name] not in harmless:
            raise HttpError(400, "invalid_request", f"the model in this server has no {name}: leave it out", name)
    settings = {name: given[name] for name in _SAME if name in given}
    most = given.get("max_completion_tokens") or given.get("max_tokens")
    if most is not None:
        settings["max_tokens"] = most
    wanted = given.get("response_format")
    if wanted is not None and wanted["type"] != "text":
        settings["response_format"] = wanted
    if given.get("tools"):
        choice, several = given.get("tool_choice"), given.get("parallel_tool_calls")
        bound = model.bind_tools(given["tools"], tool_choice=choice, parallel_tool_calls=several)
        settings |= getattr(bound, "kwargs", {})
    return settings
