"""Features of pictures, kept between calls: a second question about the same pictures skips the vision tower."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeGuard

from langchain_vlmguard.content.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from langchain_vlmguard.models.requests import Request

    Part = Tensor | Sequence["Part"]
    """A tensor, or one entry a picture, or such a list for every level of Deepstack."""

    Features = dict[str, Part]

MAX_BYTES = 256 * 2**20
"""Bytes of features that one model keeps unless told otherwise."""

PIXELS = "pixel_values"
_POOLED, _LEVELS = "pooler_output", "deepstack_features"
_READ = (_POOLED, _LEVELS)
"""What `forward` reads of a tower's output; the rest (every hidden state of the tower) is not kept."""

_KNOWN = frozenset({*_READ, "last_hidden_state", "hidden_states", "attentions"})
"""Fields of the outputs that are understood; a family whose output holds others is not cached."""


class PictureFeatures:
    """What a model's vision tower and projector made of pictures, by content, least recently used first out.

    transformers' `generate` encodes pictures before the prefill and hands them on as `mm_encoder_outputs`; this does the same
    and remembers the result. An entry belongs to all pictures of one row together, because some families (LLaVA-OneVision)
    cut a picture differently in company. Families without that argument (Mllama's cross-attention) are served as before.

    ??? example "How much is kept, and how to forget it"

        ```python
        features = model.engine.features
        features.max_bytes = 64 * 2**20
        features.clear()  # after changing the model's weights
        ```
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """Keep at most `max_bytes` of features, on the model's device; 0 keeps nothing."""
        self._kept: Recent[Features] = Recent(max_bytes)

    @property
    def max_bytes(self) -> int:
        """Most bytes that are kept."""
        return self._kept.most

    @max_bytes.setter
    def max_bytes(self, most: int) -> None:
        self._kept.most = most

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._kept.weight

    def knows(self, request: Request) -> bool:
        """Whether the features of a request's pictures are at hand."""
        return self._key(request) in self._kept

    def clear(self) -> None:
        """Forget everything, e.g. after the model's weights were changed."""
        self._kept.clear()

    def into(self, model: PreTrainedModel, requests: Sequence[Request], inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of a prefill with features in place of pixels.

        Args:
            model: The model that the features are for.
            requests: The rows, each with pictures.
            inputs: What the processor made of them.

        Returns:
            The inputs with `mm_encoder_outputs`. Unchanged if the family takes none, or if an attachment of the rows edits
            the tower itself.
        """
        keys = [self._key(request) for request in requests]
        if PIXELS not in inputs or not _takes_features(model) or None in keys:
            return inputs
        rows = [found for key in keys if (found := self._kept.get(key)) is not None]
        if len(rows) == len(keys):
            features = {name: _joined([row[name] for row in rows]) for name in rows[0]}
        else:
            output = _encoded(model, inputs)
            if not _is_understood(output):
                return inputs
            features = {name: output[name] for name in _READ if output.get(name) is not None}
            for key, row in zip(keys, _by_row(features, [len(r.row.pictures) for r in requests]), strict=False):
                self._keep(key, row)
        rest = {name: value for name, value in inputs.items() if name != PIXELS}
        return {**rest, "mm_encoder_outputs": {"image": _output(features)}}

    def _key(self, request: Request) -> str | None:
        """Return what the features depend on, `None` if they may not be kept."""
        attachment, row = request.attachment, request.row
        if not row.pictures or row.pictures_hash is None or not self.max_bytes:
            return None
        if attachment is not None and attachment.edits_pictures:
            return None
        return f"{request.settings.adapter}:{row.pictures_hash}"

    def _keep(self, key: str | None, features: Features) -> None:
        size = sum(map(_bytes_of, features.values()))
        if key not in self._kept and size <= self.max_bytes:
            self._kept.put(key, {name: _own(value) for name, value in features.items()}, size)


def _takes_features(model: PreTrainedModel) -> bool:
    takes = "mm_encoder_outputs" in inspect.signature(model.forward).parameters
    return takes and hasattr(model.base_model, "get_image_features")


def _encoded(model: PreTrainedModel, inputs: dict[str, Tensor]) -> ModelOutput:
    wanted = inspect.signature(model.base_model.get_image_features).parameters
    given = {name: inputs[name] for name in wanted if name in inputs}
    return model.base_model.get_image_features(**given, return_dict=True)


def _is_understood(output: ModelOutput) -> bool:
    if not hasattr(output, "keys") or not set(output.keys()) <= _KNOWN or output.get(_POOLED) is None:
        return False
    levels = [output[_POOLED], *(output.get(_LEVELS) or [])]
    return all(_is_tensor(entry) for level in levels for entry in level)


def _by_row(features: Features, counts: Sequence[int]) -> list[Features]:
    """Divide the features of a batch among its rows, by the number of pictures in each; nothing if that cannot be done.

    Most families give one entry a picture, Idefics3 gives one a row, and both can be told by their number. Some give one a
    tile: how many tiles a picture has depends on its size and is known to the model alone, so there the features of a batch
    are not kept, only those of a row by itself.
    """
    if len(counts) == 1:
        return [features]
    entries = {len(level) for level in (features[_POOLED], *features.get(_LEVELS, ()))}
    if entries == {sum(counts)}:
        sizes = list(counts)
    elif entries == {len(counts)}:
        sizes = [1] * len(counts)
    else:
        return []
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    return [
        {name: _cut(value, start, start + size) for name, value in features.items()}
        for start, size in zip(starts, sizes, strict=True)
    ]


def _cut(value: Part, start: int, end: int) -> Part:
    if _has_levels(value):
        return [level[start:end] for level in value]
    return value[start:end]


def _joined(values: Sequence[Part]) -> Part:
    import torch

    if all(_has_levels(value) for value in values):
        return [_joined(level) for level in zip(*values, strict=True)]
    tensors = [value for value in values if _is_tensor(value)]
    if len(tensors) == len(values):
        return torch.cat(tensors)
    return [entry for value in values for entry in value]


def _has_levels(value: Part) -> TypeGuard[Sequence[Part]]:
    """Whether a value is a list of Deepstack's levels, each of which has an entry a picture."""
    return not _is_tensor(value) and len(value) > 0 and not _is_tensor(value[0])


def _output(features: Features) -> ModelOutput:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    output = BaseModelOutputWithPooling(pooler_output=features[_POOLED])
    if _LEVELS in features:
        output.deepstack_features = features[_LEVELS]
    return output


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    return hasattr(value, "element_size")


def _own(value: Part) -> Part:
    """Return a copy that holds on to nothing but its own numbers; a cut is a view of its whole batch."""
    return value.detach().clone() if _is_tensor(value) else [_own(one) for one in value]


def _bytes_of(value: Part) -> int:
    if _is_tensor(value):
        return int(value.numel() * value.element_size())
    return sum(map(_bytes_of, value))
