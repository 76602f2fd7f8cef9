"""Put the op after every decoder layer of a loaded model, found by its shape and not by a table of families."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from langchain_vlmguard.errors import EngineRefusedError
from langchain_vlmguard.steering.architectures import TOWERS
from langchain_vlmguard.vllm.tables import edit

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from langchain_vlmguard.vllm.tables import Tables

_TABLES: list[Tables] = []
"""The tables of this process's model: a graph keeps the op and the layer's number, and the op looks the tables up."""


def decoder_layers(model: nn.Module, depth: int) -> nn.ModuleList:
    """Return the layers of the language model inside a model of vLLM.

    Args:
        model: What vLLM loaded.
        depth: How many layers the text config says there are.

    Raises:
        EngineRefusedError: There is no such list of layers, or more than one.
    """
    found = [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "layers"
        and isinstance(module, nn.ModuleList)
        and len(module) == depth
        and not TOWERS.intersection(name.split("."))
    ]
    if len(found) != 1:
        msg = f"{len(found)} lists of {depth} decoder layers found in {type(model).__name__}: it cannot be steered in vLLM"
        raise EngineRefusedError(msg)
    return found[0]


def install(layers: nn.ModuleList, tables: Tables) -> int:
    """Let every layer run the op on what it gives, and return how many do.

    The layer's class is replaced by one of its own with another `forward`, so that whatever traces or calls the layer sees the
    op. There is no condition in it: on and off are contents of the tables.

    Raises:
        EngineRefusedError: Some layers are missing in this process (a pipeline), or the model is armed already.
    """
    if len(layers) != len(tables.vectors) or any("Missing" in type(layer).__name__ for layer in layers):
        msg = f"the directions are for {len(tables.vectors)} layers, and this worker has another number of them"
        raise EngineRefusedError(msg)
    if _TABLES:
        msg = "this process has a model with steering already"
        raise EngineRefusedError(msg)
    _TABLES.append(tables)
    register_op()
    for number, layer in enumerate(layers):
        for name, tensor in tables.tensors.items() if number == 0 else ():
            layer.register_buffer(f"vlmguard_{name}", tensor, persistent=False)
        layer.__class__ = _with_op(type(layer), number)
    return len(layers)


def uninstall() -> None:
    """Forget the tables, so that another model of this process can be armed."""
    _TABLES.clear()


def _with_op(kind: type[nn.Module], number: int) -> type[nn.Module]:
    plain: Callable[..., object] = kind.forward

    def forward(self: nn.Module, *given: object, **named: object) -> object:
        output = plain(self, *given, **named)
        if isinstance(output, tuple):
            hidden, residual = output[0], output[1] if len(output) > 1 else None
        else:
            hidden, residual = output, None
        torch.ops.vlmguard.edit(hidden, residual, number)
        return output

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def register_op() -> None:
    """Register the custom op once a process."""
    if hasattr(torch.ops.vlmguard, "edit"):
        return

    @torch.library.custom_op("vlmguard::edit", mutates_args=("hidden",))
    def op(hidden: torch.Tensor, residual: torch.Tensor | None, layer: int) -> None:
        edit(_TABLES[0], hidden, residual, layer)

    @op.register_fake
    def _(hidden: Tensor, residual: Tensor | None, layer: int) -> None:
        del hidden, residual, layer
