"""Any LangChain chat model or guard graph as a model of inspect_ai."""

from __future__ import annotations

import base64
import json
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.tool import ToolCall
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_vlmguard.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inspect_ai.model import ChatMessage, Model
    from inspect_ai.tool import ToolChoice, ToolInfo
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable

    Build = Callable[[Sequence[dict[str, Any]]], Runnable[Any, Any]]
    """From tools in OpenAI's form to the runnable that has them."""

PROVIDER = "langchain"
_BUILDS: dict[str, Build] = {}


def as_inspect_model(name: str, build: Build, *, concurrency: int = 64) -> Model:
    """Make a chat model or a graph known to inspect_ai as `langchain/<name>`.

    Args:
        name: Its name in logs. A name that is taken already is given to the new one.
        build: Called once for each set of tools that suites offer (mostly none); returns a chat model or a compiled graph
            whose state has `messages` and, where it guards, `verdict`.
        concurrency: Most calls under way at once; a steered VLM batches those that wait together.
    """
    _BUILDS[name] = build
    return get_model(f"{PROVIDER}/{name}", config=GenerateConfig(max_connections=concurrency), memoize=False)


class LangChainAPI(ModelAPI):
    """inspect_ai's view of a runnable: messages in, an answer with the verdict in its metadata out."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - the interface's own default
    ) -> None:
        """Find the runnable that was registered under the name.

        Raises:
            EvaluationError: There is none.
        """
        super().__init__(model_name, base_url, api_key, [], config)
        if model_name not in _BUILDS:
            msg = f"no runnable is registered as {model_name!r}: call as_inspect_model first"
            raise EvaluationError(msg)
        self._build = _BUILDS[model_name]
        self._built: dict[str, Runnable[Any, Any]] = {}
        self._limit = anyio.CapacityLimiter(config.max_connections or 10)

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - the interface's name
        tools: list[ToolInfo],
        tool_choice: ToolChoice,  # noqa: ARG002 - part of the interface
        config: GenerateConfig,  # noqa: ARG002
    ) -> ModelOutput:
        """Ask the runnable in a thread of its own, so that a local model can batch who waits."""
        messages = [to_langchain(message) for message in input]
        runnable = self._with([_schema(tool) for tool in tools])
        answered = await anyio.to_thread.run_sync(
            runnable.invoke, messages_for(runnable, messages), limiter=self._limit
        )
        return to_output(answered, self.model_name)

    def max_connections(self) -> int:
        """Return how many calls may run at once."""
        return int(self._limit.total_tokens)

    def _with(self, tools: list[dict[str, Any]]) -> Runnable[Any, Any]:
        key = json.dumps(tools, sort_keys=True)
        if key not in self._built:
            self._built[key] = self._build(tools)
        return self._built[key]


def messages_for(runnable: Runnable[Any, Any], messages: Sequence[BaseMessage]) -> Any:
    """Return messages as a runnable takes them: a graph wants them in its state."""
    return (
        {"messages": list(messages)}
        if hasattr(runnable, "get_graph") and hasattr(runnable, "channels")
        else list(messages)
    )


def to_langchain(message: ChatMessage) -> BaseMessage:
    """Translate one message; pictures in files are read and sent as base64.

    Raises:
        EvaluationError: The message holds what this package cannot judge, such as audio.
    """
    if message.role == "assistant":
        calls = [{"name": c.function, "args": c.arguments, "id": c.id} for c in message.tool_calls or []]
        return AIMessage(message.text, tool_calls=calls)
    if message.role == "tool":
        return ToolMessage(message.text, tool_call_id=message.tool_call_id or "")
    kind = SystemMessage if message.role == "system" else HumanMessage
    if isinstance(message.content, str):
        return kind(message.content)
    return kind([_block(part) for part in message.content])


def to_output(answered: Any, model: str) -> ModelOutput:
    """Translate an answer, or the final state of a guard graph, with its verdict as metadata."""
    verdict = answered.get("verdict") if isinstance(answered, dict) else None
    message = _last_answer(answered)
    calls = [ToolCall(id=c["id"] or c["name"], function=c["name"], arguments=c["args"]) for c in message.tool_calls]
    usage = message.usage_metadata
    metadata = {key: message.response_metadata[key] for key in ("steering",) if key in message.response_metadata}
    return ModelOutput(
        model=model,
        choices=[
            ChatCompletionChoice(
                message=ChatMessageAssistant(
                    content=str(message.text), tool_calls=calls or None, model=model, source="generate"
                ),
                stop_reason="tool_calls" if calls else "stop",
            )
        ],
        usage=ModelUsage(
            input_tokens=usage["input_tokens"], output_tokens=usage["output_tokens"], total_tokens=usage["total_tokens"]
        )
        if usage
        else None,
        metadata={**metadata, **({"verdict": verdict} if verdict else {})},
    )


def _last_answer(answered: Any) -> AIMessage:
    """Return the answer; a graph that stopped to ask a person has given none."""
    if isinstance(answered, AIMessage):
        return answered
    if isinstance(answered, dict) and "__interrupt__" in answered:
        return AIMessage("")
    last = answered["messages"][-1] if isinstance(answered, dict) and answered.get("messages") else None
    if not isinstance(last, AIMessage):
        msg = f"a {type(answered).__name__} is no answer: a chat model or a graph whose state ends with an answer is needed"
        raise EvaluationError(msg)
    return last


def _block(part: Any) -> dict[str, Any]:
    if isinstance(part, ContentText):
        return {"type": "text", "text": part.text}
    if isinstance(part, ContentImage):
        return _picture(part.image)
    msg = f"a suite sent {type(part).__name__}: only text and pictures can be evaluated"
    raise EvaluationError(msg)


def _picture(image: str) -> dict[str, Any]:
    if image.startswith(("http://", "https://")):
        return {"type": "image", "url": image}
    if image.startswith("data:"):
        head, _, data = image.partition(",")
        return {"type": "image", "base64": data, "mime_type": head.removeprefix("data:").partition(";")[0]}
    path = Path(image)
    data = base64.b64encode(path.read_bytes()).decode()
    return {"type": "image", "base64": data, "mime_type": mimetypes.guess_type(path.name)[0] or "image/png"}


def _schema(tool: ToolInfo) -> dict[str, Any]:
    parameters = tool.parameters.model_dump(exclude_none=True)
    parameters.pop("additionalProperties", None)
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


@modelapi(name=PROVIDER)
def _langchain_provider() -> type[ModelAPI]:
    return LangChainAPI
