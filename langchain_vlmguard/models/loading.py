"""Load a local vision-language model once, with the directions that came with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import extra
from langchain_vlmguard.models.adapters import load_adapter
from langchain_vlmguard.models.checkpoints import checkpoint_path
from langchain_vlmguard.models.engine import Engine
from langchain_vlmguard.models.fitted import fitted_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, ProcessorMixin

    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.probe import TurnProbe
    from langchain_vlmguard.steering.steering import Steering

DIRECTIONS_FILE = "safety_directions.safetensors"
"""If a checkpoint folder has this file, its model is steered by it by default."""

PROBE_FILE = "turn_probe.safetensors"
"""If a checkpoint folder has this file, it clears turns in adaptive rewriting."""


@dataclass(frozen=True, eq=False)
class LoadedVLM:
    """A model in memory, and what came with its checkpoint.

    ??? example "Two chat models on the same weights"

        ```python
        loaded = load_vlm("path-or-hub-id")
        plain = ChatSteeredVLM.from_loaded(loaded, steering=None)
        steered = ChatSteeredVLM.from_loaded(loaded)
        ```
    """

    name: str
    model: PreTrainedModel
    processor: ProcessorMixin
    directions: SafetyDirections | None
    """The directions in the checkpoint folder."""

    probe: TurnProbe | None = None
    """The probe on whole turns that lies there too."""

    engine: Engine = field(init=False, repr=False)
    """Runs the model for everybody who shares this object; `dataclasses.replace` gives a copy with an engine of its own."""

    def __post_init__(self) -> None:
        """Make the engine, which does nothing before it is asked."""
        object.__setattr__(self, "engine", Engine(self.model, self.processor))

    @property
    def context_length(self) -> int:
        """Most tokens that a prompt and its answer may have together."""
        return self.engine.runtime.context_length

    @cached_property
    def recommended(self) -> Steering | None:
        """The steering that the checkpoint's own directions recommend, `None` if there are no directions.

        Raises:
            ValueError: The directions carry no choice of layers; running unsteered in silence would be worse.
        """
        from langchain_vlmguard.steering.steering import Steering

        return None if self.directions is None else Steering.recommended(self.directions)


def load_vlm(
    model: str,
    *,
    device: str | None = None,
    dtype: str = "auto",
    adapters: Mapping[str, str] | None = None,
    **options: object,
) -> LoadedVLM:
    """Load any Hugging Face image-text-to-text checkpoint.

    Args:
        model: A local folder, a hub id, `"testbed"`, or a folder of `vlmguard fit`, which names its model.
        device: Where to put it, e.g. `"cuda"`; the default is the GPU when there is one.
        dtype: `"auto"` keeps the checkpoint's on a GPU and computes in float32 on a CPU; otherwise a torch dtype's name.
        adapters: LoRA adapters to load beside it, name to folder or hub id; `Settings.adapter` switches one on.
        options: Passed to `from_pretrained`, e.g. `revision`, `device_map`, `attn_implementation`, `quantization_config`.

    Raises:
        OSError: There is no such checkpoint, or no such folder (`FileNotFoundError`).
        ImportError: The extra `local`, the backend of a quantization, or `peft` for an adapter, is not installed.
    """
    with extra("local"):
        import torch
        from transformers import AutoModelForImageTextToText

        from langchain_vlmguard.models.processors import load_processor

    fitted = fitted_folder(model)
    path = checkpoint_path(model if fitted is None else fitted[1])
    if _looks_like_folder(path) and not Path(path).expanduser().is_dir():
        msg = f"there is no folder {path}: give a folder with a checkpoint, a hub id such as owner/name, or 'testbed'"
        raise FileNotFoundError(msg)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = (torch.float32 if device == "cpu" else "auto") if dtype == "auto" else getattr(torch, dtype)
    shared: dict[str, object] = {
        key: options[key] for key in ("revision", "token", "trust_remote_code") if key in options
    }
    if options.get("quantization_config") is not None:  # quantized weights cannot be moved afterwards
        options.setdefault("device_map", {"": device})
    vlm = AutoModelForImageTextToText.from_pretrained(path, dtype=chosen, **options)
    if "device_map" not in options:
        vlm = vlm.to(device)
    directions = _directions_beside(path if fitted is None else str(fitted[0]), vlm, shared)
    probe = _probe_beside(path, vlm, shared)
    for name, folder in (adapters or {}).items():
        load_adapter(vlm, name, folder)
    return LoadedVLM(model, vlm.eval(), load_processor(path, **shared), directions, probe)


def _directions_beside(path: str, model: PreTrainedModel, shared: Mapping[str, object]) -> SafetyDirections | None:
    from langchain_vlmguard.steering.directions import SafetyDirections

    file = _file_beside(path, DIRECTIONS_FILE, shared)
    return None if file is None else SafetyDirections.load(file, model=model)


def _probe_beside(path: str, model: PreTrainedModel, shared: Mapping[str, object]) -> TurnProbe | None:
    from langchain_vlmguard.steering.probe import TurnProbe

    file = _file_beside(path, PROBE_FILE, shared)
    return None if file is None else TurnProbe.load(file, model=model)


def _file_beside(path: str, name: str, shared: Mapping[str, object]) -> Path | None:
    """Return a file that lies with a checkpoint, in a folder or on the hub; `None` if there is none."""
    if Path(path).is_dir():
        return file if (file := Path(path) / name).is_file() else None
    from transformers.utils import cached_file

    where = {key: shared[key] for key in ("revision", "token") if key in shared}
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    found = cached_file(path, name, **where, **quiet)
    return None if found is None else Path(found)


def load_testbed() -> LoadedVLM:
    """Load the testbed on the CPU, in float32, with its safety directions; the package `vlmguard_lab` ships it."""
    return load_vlm("testbed", device="cpu")


def _looks_like_folder(path: str) -> bool:
    """Whether a name can be no hub id, which has at most one slash and does not begin with one, a dot or a tilde."""
    return path.startswith(("/", ".", "~")) or path.count("/") > 1
