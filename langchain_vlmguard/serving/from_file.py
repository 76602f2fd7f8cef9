"""A guard and its model from the same `guard.yaml` that the server takes."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from langchain_vlmguard.agents.guard import Guard
from langchain_vlmguard.serving.building import guard_of, models_of
from langchain_vlmguard.serving.config import read_config

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_core.language_models.chat_models import BaseChatModel


def load_guard(path: str | Path) -> tuple[Guard, BaseChatModel]:
    """Read a `guard.yaml` for use in a program of yours (extra `serve`).

    Args:
        path: The file. `listen`, `keys` and `limits` are the server's and do nothing here.

    Returns:
        The guard, and the model of `backend`, the first one if it names several.

    Raises:
        ServingConfigError: The file or a field of it cannot be used; the message names the line.
        MissingExtraError: An extra is not installed.

    ??? example "One file for the server and for an agent"

        ```python
        guard, model = load_guard("guard.yaml")
        agent = create_agent(model, tools, middleware=[guard.middleware()])
        ```
    """
    config = read_config(path)
    models = models_of(config)
    parts = guard_of(config, models)
    return Guard(**{part.name: getattr(parts, part.name) for part in fields(parts)}), next(iter(models.values()))
