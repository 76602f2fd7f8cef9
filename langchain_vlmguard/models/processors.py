"""Load a checkpoint's processor on the PIL backend, even if its video half cannot be loaded."""

from __future__ import annotations

import importlib
import inspect
from functools import wraps
from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoProcessor, ProcessorMixin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def load_processor(path: str, **shared: object) -> ProcessorMixin:
    """Load the processor that belongs to a checkpoint.

    Families that also read video (Qwen-VL, InternVL, LLaVA-OneVision, Gemma 4) want torchvision for it. The guard shows no
    video, so without torchvision their processors are loaded with pictures and text alone.

    Args:
        path: A folder or a hub id.
        shared: Passed to `from_pretrained`, e.g. `revision`.

    Raises:
        OSError: There is no such checkpoint, or it has no processor.
    """
    try:
        processor: ProcessorMixin = AutoProcessor.from_pretrained(path, backend="pil", **shared)
    except (ImportError, OSError, ValueError) as error:
        if "video processor" not in str(error).lower():
            raise
        processor = pictures_only(_processor_class(path, **shared)).from_pretrained(path, backend="pil", **shared)
    return processor


def pictures_only(family: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Return the family's processor class under its own name, without its video processor."""

    def get_attributes(_cls: type[ProcessorMixin]) -> Sequence[str]:
        return [name for name in family.get_attributes() if name != "video_processor"]

    body = {"get_attributes": classmethod(get_attributes), "__module__": family.__module__, "video_processor": None}
    if inspect.signature(family.__init__).parameters["video_processor"].default is inspect.Parameter.empty:
        body["__init__"] = _without_asking(family)
    return type(family.__name__, (family, _PicturesOnly), body)


class _PicturesOnly(ProcessorMixin):  # type: ignore[misc]
    """Stands between a family and `ProcessorMixin`, which refuses a video processor that is not among its attributes."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.pop("video_processor", None)
        super().__init__(*args, **kwargs)


def _without_asking(family: type[ProcessorMixin]) -> Callable[..., None]:
    """Return the initialiser of a family that insists on a video processor (Gemma 4), with `None` for it."""

    @wraps(family.__init__)
    def init(self: ProcessorMixin, *args: object, **kwargs: object) -> None:
        family.__init__(self, *args, **{"video_processor": None, **kwargs})

    return init


def _processor_class(path: str, **shared: object) -> type[ProcessorMixin]:
    config, _ = ProcessorMixin.get_processor_dict(path, **shared)
    name = config.get("processor_class") or _usual_processor(path, **shared)
    family: type[ProcessorMixin] = getattr(importlib.import_module("transformers"), name)
    return family


def _usual_processor(path: str, **shared: object) -> str:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name: str = PROCESSOR_MAPPING_NAMES[AutoConfig.from_pretrained(path, **shared).model_type]
    return name
