"""Keywords of a chat model: other libraries' names for the same thing, and what to write instead of unknown ones."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

SYNONYMS = {
    "model_name": "model",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop_sequences": "stop",
    "request_timeout": "timeout",
    "torch_dtype": "dtype",
}
"""Accepted in the place of our own names."""

WITHOUT_EFFECT = frozenset({"max_retries", "api_key"})
"""Accepted because generic code gives them to every chat model; a model in this process needs neither."""

_FOR_LOADING = (
    *("revision", "token", "trust_remote_code", "cache_dir", "subfolder", "local_files_only", "max_memory"),
    *("offload_folder", "use_safetensors", "variant"),
)
_INSTEAD = {
    **{name: f"model_kwargs={{{name!r}: ...}}" for name in _FOR_LOADING},
    **dict.fromkeys(("model_id", "model_path", "repo_id", "pretrained_model_name_or_path"), "model=..."),
    **{name: f"quantization_config=BitsAndBytesConfig({name}=True)" for name in ("load_in_4bit", "load_in_8bit")},
    "base_url": "nothing (the model runs in this process)",
    "do_sample": "temperature=... (0 is greedy)",
    "num_return_sequences": "n=...",
    "random_seed": "seed=...",
    "steer": "steering=...",
    "tools": "model.bind_tools(tools)",
    "tool_choice": "model.bind_tools(tools, tool_choice=...)",
    "response_format": "model.with_structured_output(schema)",
}


def own_names(given: Mapping[str, object]) -> dict[str, object]:
    """Return keywords under our names.

    Raises:
        ValueError: Two of them mean the same.
    """
    named: dict[str, object] = {}
    for name, value in given.items():
        own = SYNONYMS.get(name, name)
        if own in named or (own != name and own in given):
            msg = f"{name!r} is another word for {own!r}: give one of them"
            raise ValueError(msg)
        named[own] = value
    return named


def check_known(given: Collection[str], known: Collection[str]) -> None:
    """Refuse keywords that would be dropped in silence.

    Raises:
        ValueError: One is unknown; the message says what to write.
    """
    for name in given:
        if name in known:
            continue
        if name in _INSTEAD:
            msg = f"there is no {name!r} here: write {_INSTEAD[name]}"
            raise ValueError(msg)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "options of `from_pretrained` go into model_kwargs={...}"
        msg = f"there is no {name!r} here: {hint}"
        raise ValueError(msg)
