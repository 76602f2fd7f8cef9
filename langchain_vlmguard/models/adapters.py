"""LoRA adapters beside a model's own weights: loaded once, switched on for one call at a time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel


def load_adapter(model: PreTrainedModel, name: str, path: str) -> None:
    """Load a PEFT adapter under a name and leave it switched off; `Settings.adapter` switches it on for a row.

    Raises:
        ImportError: `peft` is not installed.
    """
    model.load_adapter(path, adapter_name=name)
    model.disable_adapters()


@contextmanager
def using_adapter(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Switch an adapter on inside the block; `None` means the model's own weights.

    Raises:
        ValueError: No adapter of that name was loaded.
    """
    if name is None:
        yield
        return
    loaded = getattr(model, "peft_config", {})
    if name not in loaded:
        msg = f"no adapter {name!r} is loaded (there is {', '.join(loaded) or 'none'}): name it in `adapters`"
        raise ValueError(msg)
    model.enable_adapters()
    model.set_adapter(name)
    try:
        yield
    finally:
        model.disable_adapters()
