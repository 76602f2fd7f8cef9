"""Chat models as the command line names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from langchain_vlmguard.models.checkpoints import named_checkpoint

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

MODEL_WORDS = "A chat model: provider:name (LangChain's init_chat_model), local:FOLDER_OR_HUB_ID, or testbed."
"""What an option of this kind takes, for its help."""


def chat_model(name: str, option: str, *, temperature: float | None = None) -> BaseChatModel:
    """Return a chat model by name: `provider:name`, `local:FOLDER_OR_HUB_ID` or `testbed`.

    Args:
        name: What a person wrote.
        option: Where they wrote it, e.g. `--analyst`.
        temperature: The provider's own when `None`; local models decode greedily by themselves.

    Raises:
        BadParameter: LangChain knows no such provider.
        ImportError: The provider's package is not installed; the error names it.
    """
    if name.startswith("local:") or named_checkpoint(name) is not None:
        from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM

        return ChatSteeredVLM(model=name.removeprefix("local:"), steering=None)
    from langchain.chat_models import init_chat_model

    try:
        return init_chat_model(name) if temperature is None else init_chat_model(name, temperature=temperature)
    except ValueError as error:
        if not str(error).startswith(("Unsupported provider", "Unable to infer")):
            raise
        msg = (
            f"{option} {name!r} names no provider that LangChain knows: write e.g. openai:NAME, local:FOLDER or testbed"
        )
        raise typer.BadParameter(msg) from error
