"""Find the decoder of the language model inside any Hugging Face image-text-to-text model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from langchain_vlmguard.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PreTrainedModel

INNER = ("language_model", "text_model", "model", "decoder")
"""Names under which families keep the next module on the way to the decoder."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """The decoder layers of the language model."""

    layers: nn.ModuleList
    path: str
    """Where they are, e.g. `"model.language_model.layers"`."""

    hidden_size: int

    def __len__(self) -> int:
        """Return how many layers there are."""
        return len(self.layers)


def locate_decoder(model: PreTrainedModel, *, path: str | None = None) -> Decoder:
    """Find the decoder layers without a table of architectures.

    From the model, follow `get_decoder()` and the names that families use for their inner modules until a module owns a
    `ModuleList` called `layers` that is as deep as the text config says. The picture encoder's layers never qualify: they
    are not on that way.

    Args:
        model: Any image-text-to-text model.
        path: Where the layers are, for a model that keeps them somewhere else.

    Raises:
        UnsupportedArchitectureError: Nothing was found, or what is at `path` is no list of layers.
    """
    text = model.config.get_text_config(decoder=True)
    hidden = int(getattr(text, "hidden_size", 0) or getattr(text, "d_model", 0))
    if path is not None:
        found = _at(model, path)
        if not isinstance(found, nn.ModuleList):
            msg = f"there is no list of layers at {path!r} in {type(model).__name__}; see model.named_modules()"
            raise UnsupportedArchitectureError(msg)
        return Decoder(found, path, hidden)
    depth = getattr(text, "num_hidden_layers", None) or getattr(text, "decoder_layers", None)
    tried = []
    for module in _way_in(model):
        layers = getattr(module, "layers", None)
        tried.append(type(module).__name__)
        if isinstance(layers, nn.ModuleList) and (depth is None or len(layers) == depth):
            return Decoder(layers, _path_of(model, layers), hidden)
    msg = (
        f"no decoder layers found in {type(model).__name__} (looked into {', '.join(tried)} for {depth} layers): name them, "
        "e.g. locate_decoder(model, path='model.language_model.layers')"
    )
    raise UnsupportedArchitectureError(msg)


def layer_output(output: Any) -> Tensor:
    """Return the hidden states of a decoder layer's output, a bare tensor in some families and a tuple in others."""
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, torch.Tensor):
        msg = f"a decoder layer gave a {type(hidden).__name__} where hidden states were expected"
        raise UnsupportedArchitectureError(msg)
    return hidden


def replace_layer_output(output: Any, hidden: Tensor) -> Any:
    """Return a layer's output with other hidden states, in the form it came in."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def image_token_id(model: PreTrainedModel) -> int | None:
    """Return the id of the token that stands for a picture in the prompt, `None` where the config names none."""
    for name in ("image_token_id", "image_token_index"):
        if (found := getattr(model.config, name, None)) is not None:
            return int(found)
    return None


def _way_in(model: PreTrainedModel) -> Iterator[nn.Module]:
    """Yield the modules on the way to the decoder, breadth first, each once."""
    queue: list[nn.Module] = [model]
    seen: set[int] = set()
    while queue:
        module = queue.pop(0)
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield module
        nearer = [_get_decoder(module), *(getattr(module, name, None) for name in INNER)]
        queue += [inner for inner in nearer if isinstance(inner, nn.Module)]


def _get_decoder(module: nn.Module) -> nn.Module | None:
    getter = getattr(module, "get_decoder", None)
    try:
        found = getter() if callable(getter) else None
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None
    return found if isinstance(found, nn.Module) else None


def _path_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(str(name) for name, module in model.named_modules() if module is wanted)


def _at(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
