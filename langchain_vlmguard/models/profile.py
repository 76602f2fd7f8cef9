"""What a model can do, in LangChain's words, read from its config without its weights."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from langchain_vlmguard.models.checkpoints import checkpoint_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.language_models import ModelProfile

    from langchain_vlmguard.models.loading import LoadedVLM


def read_profile(model: str, loaded: LoadedVLM | None, *, urls: bool, options: Mapping[str, object]) -> ModelProfile:
    """Return a model's profile.

    A checkpoint that does not lie on this machine yet has no context length in it: making a chat model downloads nothing.

    Args:
        model: A local folder, a hub id, or `"testbed"`.
        loaded: The model in memory, if it is loaded.
        urls: Whether pictures are fetched by address.
        options: Options of `from_pretrained`, e.g. `revision`.
    """
    enforced = find_spec("llguidance") is not None
    profile: ModelProfile = {
        "name": model,
        "open_weights": True,
        "text_inputs": True,
        "image_inputs": True,
        "image_url_inputs": urls,
        "image_tool_message": True,
        "pdf_inputs": False,
        "audio_inputs": False,
        "video_inputs": False,
        "text_outputs": True,
        "image_outputs": False,
        "audio_outputs": False,
        "video_outputs": False,
        "tool_calling": True,
        "tool_choice": enforced,
        "tool_call_streaming": True,
        "structured_output": enforced,
    }
    if longest := _context_length(model, loaded, options):
        profile["max_input_tokens"] = longest
        profile["max_output_tokens"] = longest
    return profile


def _context_length(model: str, loaded: LoadedVLM | None, options: Mapping[str, object]) -> int | None:
    if loaded is not None:
        return loaded.context_length
    import json
    from pathlib import Path

    file = Path(checkpoint_path(model)) / str(options.get("subfolder") or "") / "config.json"
    if not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    longest = config.get("text_config", config).get("max_position_embeddings")
    return int(longest) if longest else None
