"""Features of pictures, kept between calls: a second question about the same pictures skips the vision tower."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from langchain_vlmguard.models.generation import Request

MAX_BYTES = 256 * 2**20
"""Bytes of features that one model keeps unless told otherwise."""

PIXELS = "pixel_values"
_READ = ("pooler_output", "deepstack_features")
"""What `forward` reads of a tower's output; the rest (every hidden state of the tower) is not kept."""

_KNOWN = frozenset({*_READ, "last_hidden_state", "hidden_states", "attentions"})
"""Fields of the outputs that are understood; a family whose output holds others is not cached."""


class PictureFeatures:
    """What a model's vision tower and projector made of pictures, by content, least recently used first out.

    transformers' `generate` encodes pictures before the prefill and hands them on as `mm_encoder_outputs`; this does the same
    and remembers the result. An entry belongs to all pictures of one row together, because some families (LLaVA-OneVision)
    cut a picture differently in company. Families without that argument (Mllama's cross-attention) are served as before.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """Keep at most `max_bytes` of features, on the model's device; 0 keeps nothing."""
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._bytes

    def knows(self, request: Request) -> bool:
        """Whether the features of a request's pictures are at hand."""
        return self._key(request) in self._kept

    def clear(self) -> None:
        """Forget everything, e.g. after the model's weights were changed."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def into(self, requests: Sequence[Request], inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of a prefill with features in place of pixels.

        Args:
            requests: The rows, each with pictures.
            inputs: What the processor made of them.

        Returns:
            The inputs with `mm_encoder_outputs`, or as they came where the family takes none or a row's steering edits the
            tower itself.
        """
        model = requests[0].loaded.model
        keys = [self._key(request) for request in requests]
        if PIXELS not in inputs or not _takes_features(model) or None in keys:
            return inputs
        found = [self._get(key) for key in keys if key is not None]
        rows = [one for one in found if one is not None]
        if len(rows) == len(keys):
            features = {name: _joined([row[name] for row in rows]) for name in rows[0]}
        else:
            output = _encoded(model, inputs)
            if not _is_understood(output):
                return inputs
            features = {name: output[name] for name in _READ if output.get(name) is not None}
            for key, part in zip(keys, _parts(features, [len(r.row.pictures) for r in requests]), strict=False):
                self._put(str(key), part)
        rest = {name: value for name, value in inputs.items() if name != PIXELS}
        return {**rest, "mm_encoder_outputs": {"image": _output(features)}}

    def _key(self, request: Request) -> str | None:
        """Return what the features depend on, `None` where they may not be kept."""
        steering, row = request.steering, request.row
        if not row.pictures or row.pictures_hash is None or not self.max_bytes:
            return None
        if steering is not None and steering.edits_pictures:
            return None
        return f"{request.settings.adapter}:{row.pictures_hash}"

    def _get(self, key: str) -> dict[str, Any] | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _put(self, key: str, features: dict[str, Any]) -> None:
        size = _bytes_of(features)
        with self._lock:
            if key in self._kept or size > self.max_bytes:
                return
            self._kept[key] = _own(features)
            self._bytes += size
            while self._bytes > self.max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= _bytes_of(oldest)


def _takes_features(model: PreTrainedModel) -> bool:
    takes = "mm_encoder_outputs" in inspect.signature(model.forward).parameters
    return takes and hasattr(model.base_model, "get_image_features")


def _encoded(model: Any, inputs: dict[str, Any]) -> Any:
    wanted = inspect.signature(model.base_model.get_image_features).parameters
    given = {name: inputs[name] for name in wanted if name in inputs}
    return model.base_model.get_image_features(**given, return_dict=True)


def _is_understood(output: Any) -> bool:
    if not hasattr(output, "keys") or not set(output.keys()) <= _KNOWN or output.get("pooler_output") is None:
        return False
    levels = [output["pooler_output"], *(output.get("deepstack_features") or [])]
    return all(_is_tensor(entry) for level in levels for entry in level)


def _parts(features: dict[str, Any], counts: Sequence[int]) -> list[dict[str, Any]]:
    """Part the features of a batch into those of its rows, by the pictures that each shows; nothing where that cannot be.

    Families give one entry a picture or (Idefics3) one a row; where they give one a tile, only a row alone is kept.
    """
    if len(counts) == 1:
        return [features]
    entries = {len(value) for value in _lists(features)}
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


def _lists(features: dict[str, Any]) -> list[Any]:
    return [features["pooler_output"], *features.get("deepstack_features", [])]


def _cut(value: Any, start: int, end: int) -> Any:
    if isinstance(value, list) and value and not _is_tensor(value[0]):  # levels of Deepstack
        return [level[start:end] for level in value]
    return value[start:end]


def _joined(values: list[Any]) -> Any:
    first = values[0]
    if _is_tensor(first):
        import torch

        return torch.cat(values)
    if isinstance(first, list) and first and not _is_tensor(first[0]):
        return [_joined(list(level)) for level in zip(*values, strict=True)]
    return [entry for value in values for entry in value]


def _output(features: dict[str, Any]) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    output = BaseModelOutputWithPooling(pooler_output=features["pooler_output"])
    for name in features.keys() - {"pooler_output"}:
        setattr(output, name, features[name])
    return output


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "element_size")


def _own(value: Any) -> Any:
    """Return a copy that holds on to nothing but its own numbers; a cut is a view of its whole batch."""
    if _is_tensor(value):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: _own(one) for name, one in value.items()}
    return [_own(one) for one in value]


def _bytes_of(value: Any) -> int:
    if _is_tensor(value):
        return int(value.numel() * value.element_size())
    parts = value.values() if isinstance(value, dict) else value
    return sum(_bytes_of(one) for one in parts)
