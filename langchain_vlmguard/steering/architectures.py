"""Find the decoder of the language model inside any Hugging Face image-text-to-text model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedConfig

from langchain_vlmguard.errors import UnsupportedArchitectureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PreTrainedModel

INNER = ("language_model", "text_model", "model", "decoder")
"""Names under which families keep the next module on the way to the decoder."""

TOWERS = frozenset({"vision_tower", "vision_model", "vision_encoder", "visual", "image_tower", "audio_tower"})
"""Names under which families keep what encodes pictures and sound; steering is for the language model alone."""


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


_FOUND: WeakKeyDictionary[PreTrainedModel, Decoder] = WeakKeyDictionary()
"""Where the decoders of models lie that were looked into before: every prefill that is watched asks."""


def locate_decoder(model: PreTrainedModel, *, path: str | None = None) -> Decoder:
    """Find the decoder layers without a table of architectures.

    From the model, follow `get_decoder()` and the names that families use for their inner modules until a module owns a
    `ModuleList` called `layers` that fits the text config: as deep, as wide, and outside every picture encoder.

    Args:
        model: Any image-text-to-text model.
        path: Where the layers are, for a model that keeps them somewhere else. It is checked in the same way.

    Raises:
        UnsupportedArchitectureError: Nothing was found, or what is at `path` is not the decoder of the language model.
    """
    known = _FOUND.get(model)
    if path is None and known is not None and _at(model, known.path) is known.layers:
        return known
    shape = _Shape.of(model)
    if path is not None:
        return _named(model, path, shape)
    tried = []
    for module in _way_in(model):
        tried.append(type(module).__name__)
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList) and not _objection(model, found := _path_of(model, layers), layers, shape):
            _FOUND[model] = Decoder(layers, found, shape.hidden_size)
            return _FOUND[model]
    msg = (
        f"no decoder layers found in {type(model).__name__} (looked into {', '.join(tried)} for {shape}): name them, "
        "e.g. locate_decoder(model, path='model.language_model.layers')"
    )
    raise UnsupportedArchitectureError(msg)


def layer_output(output: object) -> Tensor:
    """Return the hidden states of a decoder layer's output, a bare tensor in some families and a tuple in others."""
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, torch.Tensor):
        msg = f"a decoder layer gave a {type(hidden).__name__} where hidden states were expected"
        raise UnsupportedArchitectureError(msg)
    return hidden


def replace_layer_output(output: object, hidden: Tensor) -> Tensor | tuple[object, ...]:
    """Return a layer's output with other hidden states, in the form it came in."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def image_token_id(model: PreTrainedModel) -> int | None:
    """Return the id of the token that stands for a picture in the prompt, `None` if the config names no such token."""
    for name in ("image_token_id", "image_token_index"):
        if (found := getattr(model.config, name, None)) is not None:
            return int(found)
    return None


@dataclass(frozen=True)
class _Shape:
    """What the text config says the decoder looks like."""

    hidden_size: int
    depth: int | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> _Shape:
        """Read the text config; an encoder-decoder's `num_hidden_layers` would be its encoder's."""
        text = model.config.get_text_config(decoder=True)
        hidden_size = _hidden_size(text)
        if hidden_size is None:
            msg = f"the config of {type(model).__name__} gives its language model no hidden_size: it cannot be steered"
            raise UnsupportedArchitectureError(msg)
        return cls(hidden_size, getattr(text, "decoder_layers", None) or getattr(text, "num_hidden_layers", None))

    def __str__(self) -> str:
        """Say it in words."""
        return f"{'' if self.depth is None else f'{self.depth} '}layers of hidden size {self.hidden_size}"


def _hidden_size(config: PreTrainedConfig) -> int | None:
    return getattr(config, "hidden_size", None) or getattr(config, "d_model", None)


def _named(model: PreTrainedModel, path: str, shape: _Shape) -> Decoder:
    found = _at(model, path)
    if not isinstance(found, nn.ModuleList):
        msg = f"there is no list of layers at {path!r} in {type(model).__name__}; see model.named_modules()"
        raise UnsupportedArchitectureError(msg)
    if objection := _objection(model, path, found, shape):
        msg = f"{path!r} in {type(model).__name__} is not the decoder of its language model: {objection}"
        raise UnsupportedArchitectureError(msg)
    return Decoder(found, path, shape.hidden_size)


def _objection(model: PreTrainedModel, path: str, layers: nn.ModuleList, shape: _Shape) -> str | None:
    """Say why layers cannot be the decoder's, `None` where nothing speaks against it."""
    if towers := TOWERS.intersection(path.split(".")):
        return f"it lies in {min(towers)!r}, which does not encode text"
    if shape.depth is not None and len(layers) != shape.depth:
        return f"it holds {len(layers)} layers, and the text config says {shape}"
    width = _hidden_size(_owner(model, path).config.get_text_config(decoder=True))
    if width != shape.hidden_size:
        return f"its layers are of hidden size {width}, and the text config says {shape}"
    return None


def _owner(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """Return the innermost model around a module: its config is the one that the module was built from."""
    owner = inner = model
    for name in path.split("."):
        inner = getattr(inner, name)
        owner = inner if isinstance(getattr(inner, "config", None), PreTrainedConfig) else owner
    return owner


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
