"""Where a local model comes from: fields of the chat model, and the weights behind them, loaded once."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from langchain_vlmguard.models.loading import LoadedVLM, load_vlm

if TYPE_CHECKING:
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from langchain_vlmguard.models.engine import Engine
else:  # pydantic reads the annotations of fields when the class is made, and this one would import transformers
    QuantizationConfigMixin = object


class LocalModel(BaseModel):
    """Names a checkpoint and loads it on first use."""

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    model: str
    """A local folder, a hub id, or the name of a checkpoint that a package ships, such as `"testbed"`."""

    device: str | None = None
    """Torch device; the GPU when there is one."""

    dtype: str = "auto"
    """`"auto"` keeps the checkpoint's on a GPU and computes in float32 on a CPU; otherwise a torch dtype or its name."""

    device_map: str | int | dict[str, str | int] | None = None
    """How `from_pretrained` spreads the weights, e.g. `"auto"`; replaces `device`."""

    attn_implementation: str | None = None
    quantization_config: QuantizationConfigMixin | dict[str, object] | None = Field(default=None, repr=False)
    """A quantization config of transformers, whose backend (bitsandbytes, torchao, ...) must be installed."""

    adapters: dict[str, str] = Field(default_factory=dict)
    """LoRA adapters to load beside the model (needs `peft`), name to folder or hub id; all are off until named in `adapter`."""

    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Anything else for `from_pretrained`, e.g. `revision`."""

    _loaded: LoadedVLM | None = PrivateAttr(default=None)
    _load_lock: Lock = PrivateAttr(default_factory=Lock)

    @field_validator("dtype", mode="before")
    @classmethod
    def _name_dtype(cls, given: object) -> object:
        return str(given).removeprefix("torch.")

    @property
    def loaded(self) -> LoadedVLM:
        """The model in memory, loaded behind a lock on first use."""
        if self._loaded is not None:
            return self._loaded
        with self._load_lock:
            if self._loaded is None:
                named = ("device_map", "attn_implementation", "quantization_config")
                given = {name: value for name in named if (value := getattr(self, name)) is not None}
                options = {**self.model_kwargs, **given}
                self._loaded = load_vlm(
                    self.model,
                    device=self.device,
                    dtype=self.dtype,
                    adapters=self.adapters,
                    guard_files=self._reads_guard_files,
                    **options,
                )
            return self._loaded

    @property
    def _reads_guard_files(self) -> bool:
        """Whether the checkpoint's own directions or probe are wanted."""
        return True

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._loaded is not None

    @property
    def engine(self) -> Engine:
        """What runs the model: scheduler, lock and picture features, shared by all chat models around the same weights."""
        return self.loaded.engine
