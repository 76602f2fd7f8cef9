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
from langchain_vlmguard.models.guard_files import DIRECTIONS_FILE, PROBE_FILE, ModelHashes, find_guard_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, ProcessorMixin

    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.probe import TurnProbe
    from langchain_vlmguard.steering.steering import Steering


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

    def check(self, directions: SafetyDirections) -> None:
        """Make sure that directions were fitted on this model.

        Raises:
            DirectionsMismatchError: They were not.
        """
        directions.check(self.model)

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
    guard_files: bool = True,
    **options: object,
) -> LoadedVLM:
    """Load any Hugging Face image-text-to-text checkpoint.

    Args:
        model: A local folder, a hub id, `"testbed"`, or a folder of `vlmguard fit`, which names its model.
        device: Where to put it, e.g. `"cuda"`; the default is the GPU when there is one.
        dtype: `"auto"` keeps the checkpoint's on a GPU and computes in float32 on a CPU; otherwise a torch dtype's name.
        adapters: LoRA adapters to load beside it, name to folder or hub id; `Settings.adapter` switches one on.
        guard_files: Whether to look for directions and a probe of the checkpoint; off, the model is loaded alone.
        options: Passed to `from_pretrained`, e.g. `revision`, `device_map`, `attn_implementation`, `quantization_config`.

    Raises:
        GuardFilesError: The checkpoint's directions or probe are missing, changed or another model's.
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
        key: options[key] for key in ("revision", "token", "trust_remote_code", "cache_dir") if key in options
    }
    if options.get("quantization_config") is not None:  # quantized weights cannot be moved afterwards
        options.setdefault("device_map", {"": device})
    vlm = AutoModelForImageTextToText.from_pretrained(path, dtype=chosen, **options)
    if "device_map" not in options:
        vlm = vlm.to(device)
    directions, probe = (
        _beside(path, None if fitted is None else fitted[0], vlm, options) if guard_files else (None, None)
    )
    for name, folder in (adapters or {}).items():
        load_adapter(vlm, name, folder)
    return LoadedVLM(model, vlm.eval(), load_processor(path, **shared), directions, probe)


def _beside(
    path: str, fitted: Path | None, model: PreTrainedModel, options: Mapping[str, object]
) -> tuple[SafetyDirections | None, TurnProbe | None]:
    """Return the directions and the probe that came with a checkpoint; a folder of `vlmguard fit` has its own directions."""
    from langchain_vlmguard.steering.directions import SafetyDirections, config_hash, weights_hash
    from langchain_vlmguard.steering.probe import TurnProbe

    hashes = ModelHashes(config_hash=config_hash(model), weights_hash=weights_hash(model))
    files = find_guard_files(path, options, hashes, getattr(model.config, "_commit_hash", None))
    if fitted is not None:
        files[DIRECTIONS_FILE] = fitted / DIRECTIONS_FILE
    directions, probe = files.get(DIRECTIONS_FILE), files.get(PROBE_FILE)
    return (
        None if directions is None else SafetyDirections.load(directions, model=model),
        None if probe is None else TurnProbe.load(probe, model=model),
    )


def load_testbed() -> LoadedVLM:
    """Load the testbed on the CPU, in float32, with its safety directions; the package `vlmguard_lab` ships it."""
    return load_vlm("testbed", device="cpu")


def _looks_like_folder(path: str) -> bool:
    """Whether a name can be no hub id, which has at most one slash and does not begin with one, a dot or a tilde."""
    return path.startswith(("/", ".", "~")) or path.count("/") > 1
