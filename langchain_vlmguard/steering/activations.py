"""Read hidden states: the last prompt token after every decoder layer."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import torch
from tqdm.auto import tqdm

from langchain_vlmguard.steering.architectures import layer_output, locate_decoder
from langchain_vlmguard.steering.attachment import hooked
from langchain_vlmguard.steering.encoding import Prompt, encode_prompts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextvars import ContextVar

    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

    from langchain_vlmguard.steering.attachment import Hook

Call = TypeVar("Call")


class SeenEnough(Exception):  # noqa: N818 - nothing is wrong
    """Raised by a forward hook to end the forward pass, because the remaining layers would change nothing."""


def states_until(model: PreTrainedModel, inputs: dict[str, Tensor], layers: Sequence[int]) -> dict[int, Tensor]:
    """Return the last position's states after some layers, from one forward pass that ends with the deepest of them.

    Args:
        model: An image-text-to-text model in eval mode.
        inputs: What its processor made of a prompt.
        layers: Decoder layers.

    Returns:
        `layer -> (rows, hidden)` in the model's dtype; a layer that did not run (cross-attention without a picture) is left out.
    """
    deepest = locate_decoder(model).layers[max(layers)]
    with torch.inference_mode(), capture_last_token(model, layers) as states:
        with hooked([(deepest, _end)]), suppress(SeenEnough):
            model(**inputs, use_cache=False)
        return dict(states)


def clean_prefill(
    active: ContextVar[Call | None], model: PreTrainedModel, inputs: dict[str, Tensor], layers: tuple[int, ...]
) -> dict[int, Tensor]:
    """Return the last prompt token's states by layer, `(rows, hidden)`, while no call of `active` takes part."""
    outer = active.set(None)
    try:
        return states_until(model, inputs, layers)
    finally:
        active.reset(outer)


def _end(_module: object, _inputs: object, _output: object) -> None:
    raise SeenEnough


@contextmanager
def capture_last_token(model: PreTrainedModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect, for the forward passes inside the block, each layer's output at the last position.

    Yields:
        A dict that holds, after a forward pass, `layer -> (rows, hidden)` in the model's dtype (the last pass wins).
    """
    decoder = locate_decoder(model)
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> Hook:
        def hook(_module: object, _inputs: object, output: object) -> None:
            states[layer] = layer_output(output)[:, -1].detach()

        return hook

    with hooked((decoder.layers[layer], keep(layer)) for layer in layers):
        yield states


def last_token_states(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    prompts: Sequence[Prompt],
    *,
    batch_size: int = 16,
    progress: bool | str = False,
) -> Tensor:
    """Return the hidden state after each decoder layer at the last prompt token.

    Args:
        model: An image-text-to-text model in eval mode.
        processor: Its processor.
        prompts: What to run; rows with and without pictures are run apart.
        batch_size: Rows a forward pass.
        progress: Show a bar; a string is its label.

    Returns:
        `(prompts, layers, hidden)` float32 on the CPU.
    """
    decoder = locate_decoder(model)
    rows = torch.empty(len(prompts), len(decoder.layers), decoder.hidden_size)
    batches = [
        indices[start : start + batch_size]
        for indices in _by_picture(prompts)
        for start in range(0, len(indices), batch_size)
    ]
    label = progress if isinstance(progress, str) else "hidden states"
    for indices in tqdm(batches, desc=label, disable=not progress):
        encoded = encode_prompts(processor, [prompts[i] for i in indices])
        with torch.inference_mode(), capture_last_token(model, range(len(decoder.layers))) as states:
            model(
                **{k: v.to(model.device) for k, v in encoded.items()},
                **padded_positions(encoded, model),
                use_cache=False,
            )
            rows[indices] = _every_layer(states, len(decoder.layers))
    return rows


def _every_layer(states: dict[int, Tensor], depth: int) -> Tensor:
    """Stack the layers' states; a layer that did not run (cross-attention without a picture) left its input as it was."""
    every = [states[min(states)]]
    for layer in range(1, depth):
        every.append(states.get(layer, every[-1]))
    return torch.stack([state.float().cpu() for state in every], dim=1)


def _by_picture(prompts: Sequence[Prompt]) -> tuple[list[int], list[int]]:
    """Split row indices by picture, short texts first so that little is padded."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].text))
    shown = [i for i in order if prompts[i].picture is not None]
    return [i for i in order if prompts[i].picture is None], shown


def padded_positions(encoded: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """Give left-padded rows their positions, unless the family computes its own (multimodal rotary)."""
    text_config = model.config.get_text_config()
    rope = getattr(text_config, "rope_parameters", None) or getattr(text_config, "rope_scaling", None) or {}
    if "mrope_section" in rope:
        return {}
    mask = encoded["attention_mask"]
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0).to(model.device)}
