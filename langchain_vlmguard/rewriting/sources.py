"""What a rewriter can be made of: a chat model, the name of one, or one under LangChain's wrappers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from langchain_core.language_models import BaseLanguageModel
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.prompts import BasePromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.tools import BaseTool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_vlmguard.rewriting.report import Model

_TOOLS = frozenset({"tools", "tool_choice", "functions", "function_call", "response_format"})
_NO_MODELS = (BaseTool, BasePromptTemplate, BaseOutputParser, BaseRetriever)
_WANTED = (
    "a chat model, its name as 'provider:model' (such as 'openai:gpt-4o'), or a chat model with .bind(...), .with_config(...), "
    ".with_retry(...) or .with_fallbacks(...)"
)


def model_of(given: object) -> Model:
    """Return the model that was given, or is called by the name that was given.

    Raises:
        TypeError: It is no model.
        ValueError: The name is none, or tools or a form of answer are bound to the model.
        ImportError: The provider's package is not installed; the error names it.

    ??? example

        ```python
        model_of("openai:gpt-4o")
        model_of(chat_model.with_retry())
        ```
    """
    if isinstance(given, str):
        return _called(given)
    if not isinstance(given, Runnable):
        msg = f"a rewriter is made of {_WANTED}, not of {_kind(given)}"
        raise TypeError(msg)
    for one in _inside(given):
        if isinstance(one, _NO_MODELS) or (hasattr(one, "max_retries") and hasattr(one, "form")):
            again = (
                "it is a rewriter already: give it to the guard as it is"
                if hasattr(one, "form")
                else "give the chat model"
            )
            msg = f"a rewriter is made of {_WANTED}, not of {_kind(one)}: {again}"
            raise TypeError(msg)
        if isinstance(one, RunnableBindingBase) and (bound := sorted(_TOOLS & one.kwargs.keys())):
            msg = (
                f"the rewriter's model comes with {', '.join(bound)} bound to it, and would answer in that form instead of "
                "writing a report: give the chat model without it"
            )
            raise ValueError(msg)
    return given


def is_model(given: object) -> TypeGuard[str | Model]:
    """Whether this is a model, wrapped or called by name, and not something that gives rewrites already."""
    if isinstance(given, str):
        return True
    if not isinstance(given, Runnable):
        return False
    return any(isinstance(one, BaseLanguageModel) or _is_configurable(one) for one in _inside(given))


def name_of(model: object) -> str:
    """Return what a verdict calls a model: its class and name, under all wrappers."""
    for one in _inside(model):
        if isinstance(one, RunnableWithFallbacks | RunnableBindingBase | DynamicRunnable):
            continue
        name = getattr(one, "model_name", None) or getattr(one, "model", None)
        return f"{type(one).__name__}:{name}" if isinstance(name, str) else type(one).__name__
    return type(model).__name__


def is_local(model: object) -> bool:
    """Whether a model is one of this package's, whose decoder can be held to a schema."""
    return hasattr(model, "from_loaded")


def _called(name: str) -> Model:
    from langchain.chat_models import init_chat_model

    msg = f"{name!r} names no chat model: use 'provider:model', such as 'openai:gpt-4o'"
    if not name.strip():
        raise ValueError(msg)
    try:
        return init_chat_model(name)
    except ValueError as error:
        msg += f" ({str(error).splitlines()[0]})"
        raise ValueError(msg) from error


def _inside(model: object) -> Iterator[object]:
    """Yield a model and what it wraps, the outermost first."""
    yield model
    if isinstance(model, RunnableWithFallbacks):
        for one in model.runnables:
            yield from _inside(one)
    elif isinstance(model, RunnableBindingBase):
        yield from _inside(model.bound)
    elif isinstance(model, DynamicRunnable):
        yield from _inside(model.default)


def _is_configurable(one: object) -> bool:
    """Whether this is what `init_chat_model` gives without a name."""
    return type(one).__module__.startswith("langchain.") and hasattr(one, "with_structured_output")


def _kind(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
