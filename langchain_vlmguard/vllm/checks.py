"""What an engine must not use while we steer in it: everything that was not tested is refused by name at start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import EngineRefusedError
from langchain_vlmguard.vllm.settings import KEY, OP_VERSION, RowSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_vlmguard.steering.directions import SafetyDirections

_FLAGS = {
    "--speculative-config": "speculative_config",
    "--kv-transfer-config": "kv_transfer_config",
    "--ec-transfer-config": "ec_transfer_config",
    "--enable-lora": "lora_config",
    "--enable-dbo": "parallel_config.enable_dbo",
    "--ubatch-size": "parallel_config.use_ubatching",
    "--tensor-parallel-size": "parallel_config.tensor_parallel_size",
    "--pipeline-parallel-size": "parallel_config.pipeline_parallel_size",
    "--data-parallel-size": "parallel_config.data_parallel_size",
    "--decode-context-parallel-size": "parallel_config.decode_context_parallel_size",
    "--async-scheduling (give --no-async-scheduling)": "scheduler_config.async_scheduling",
    "sequence parallel (pass_config.enable_sp)": "compilation_config.pass_config.enable_sp",
    "model runner V2 (give VLLM_USE_V2_MODEL_RUNNER=0)": "use_v2_model_runner",
    "--enable-prompt-embeds": "model_config.enable_prompt_embeds",
}
"""A flag as users write it, and where vLLM's config keeps it. Numbers may be 1."""

_FRONT_END = "VLLM_USE_RUST_FRONTEND"


def check_engine(config: object, environment: Mapping[str, str] = os.environ) -> None:
    """Make sure that an engine uses nothing that steering was not tested with.

    Args:
        config: vLLM's own config.
        environment: Where vLLM's variables are looked up.

    Raises:
        EngineRefusedError: Naming every flag that is in the way.
    """
    found = [flag for flag, path in _FLAGS.items() if _used(config, path)]
    if environment.get(_FRONT_END, "0").lower() not in ("", "0", "false"):
        found.append(_FRONT_END)
    if found:
        msg = f"steering in vLLM was not tested with {', '.join(found)}: start the engine without"
        raise EngineRefusedError(msg)


def _used(config: object, path: str) -> bool:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name, None)
    if isinstance(value, int) and not isinstance(value, bool):
        return value > 1
    return bool(value)


@dataclass(frozen=True)
class EngineOptions:
    """What `additional_config["vlmguard"]` holds: it travels with vLLM's config to every process, and is part of its hash."""

    directions: dict[str, dict[str, str]]
    """Name to `{"file", "digest"}`."""

    unmarked: str = "refuse"
    """What a request without settings is: `"refuse"`, or settings as text, the operator's default."""

    version: int = OP_VERSION
    """Version of the edit, so that no graph of another one is taken from a cache."""

    @classmethod
    def read(cls, additional: object) -> EngineOptions | None:
        """Read an engine's `additional_config`; `None` where nothing of ours was asked for.

        Raises:
            EngineRefusedError: What was asked for has another form.
        """
        given = additional.get(KEY) if isinstance(additional, dict) else None
        if given is None:
            return None
        match given:
            case {"directions": dict(directions), "unmarked": str(unmarked), "version": int(version)} if (
                directions
                and version == OP_VERSION
                and all(isinstance(one, dict) and one.keys() == {"file", "digest"} for one in directions.values())
            ):
                if unmarked != "refuse":
                    RowSettings.parse(unmarked)
                return cls(directions, unmarked, version)
        msg = f"additional_config[{KEY!r}] cannot be read: make it with engine_options() of this version of the package"
        raise EngineRefusedError(msg)

    def load(self) -> dict[str, SafetyDirections]:
        """Load the directions.

        Raises:
            EngineRefusedError: A file holds other directions than its digest says.
        """
        from langchain_vlmguard.steering.directions import SafetyDirections

        found = {name: SafetyDirections.load(one["file"]) for name, one in self.directions.items()}
        for name, one in found.items():
            if one.hash != self.directions[name]["digest"]:
                msg = f"the file of directions {name!r} holds {one.hash}, not {self.directions[name]['digest']}"
                raise EngineRefusedError(msg)
        return found


def engine_options(
    directions: Mapping[str, str | Path], *, unmarked: RowSettings | None = None
) -> dict[str, dict[str, object]]:
    """Return the `additional_config` that arms an engine.

    ??? example "An engine that steers"

        ```python
        from vllm import LLM

        config = engine_options({"safety": "checkpoint/vlmguard/safety_directions.safetensors"})
        engine = LLM("checkpoint", additional_config=config)
        ```

    Args:
        directions: Files of safety directions by the name that requests use. Every worker must be able to read them.
        unmarked: What is done to requests that say nothing; `None` refuses them.
    """
    from langchain_vlmguard.steering.directions import SafetyDirections

    files = {name: Path(file).resolve() for name, file in directions.items()}
    listed = {name: {"file": str(file), "digest": SafetyDirections.load(file).hash} for name, file in files.items()}
    text = "refuse" if unmarked is None else unmarked.render()
    return {KEY: {"directions": listed, "unmarked": text, "version": OP_VERSION}}
