"""A model that an engine of vLLM holds, as `ChatSteeredVLM.from_vllm` uses it: processor and directions here, weights there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Protocol, cast

from langchain_vlmguard.errors import DirectionsMismatchError, EngineRefusedError
from langchain_vlmguard.models.chat_format import ChatRow
from langchain_vlmguard.models.engine import Engine
from langchain_vlmguard.models.loading import LoadedVLM
from langchain_vlmguard.models.requests import Settings
from langchain_vlmguard.models.served_queue import LLMEngine, ServedQueue
from langchain_vlmguard.vllm.checks import EngineOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, ProcessorMixin

    from langchain_vlmguard.models.scheduler import Scheduler
    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.gates import GateReading
    from langchain_vlmguard.steering.steering import Steering


class _ModelConfig(Protocol):
    model: str
    max_model_len: int


class _Config(Protocol):
    model_config: _ModelConfig
    additional_config: object


class _Engine(LLMEngine, Protocol):
    vllm_config: _Config


class VLLM(Protocol):
    """What is used of `vllm.LLM`."""

    llm_engine: _Engine

    def collective_rpc(self, method: str) -> Sequence[dict[str, object]]:
        """Run a method in every worker."""


class ServedEngine(Engine):
    """Has vLLM answer what others have their own model answer."""

    def __init__(self, llm: VLLM, names: dict[str, str]) -> None:
        """Feed an engine of vLLM.

        Args:
            llm: The engine.
            names: Digest of directions to their name in it.
        """
        self.scheduler = cast("Scheduler", ServedQueue(llm.llm_engine, names))
        self._lock = Lock()

    @property
    def lock(self) -> Lock:
        """Nobody needs it: vLLM runs the model."""
        return self._lock

    def read_gates(self, texts: list[str], steering: Steering) -> GateReading:
        """Return what a steering's gate reads of rendered texts, each in a request of one token."""
        import torch

        from langchain_vlmguard.steering.interventions import Push

        alone = replace(steering, reads="input", intervention=Push())
        answers = self.generate([ChatRow(text, text) for text in texts], Settings(max_tokens=1), alone)
        scores = torch.tensor([one.steering["score"] for one in answers if one.steering is not None])
        return steering.decide(torch.zeros(len(texts), dtype=torch.bool), None, scores)


@dataclass(frozen=True, eq=False)
class ServedVLM(LoadedVLM):
    """A model in vLLM's workers."""

    digests: frozenset[str] = frozenset()
    """Hashes of the directions that the workers hold, which checked them against their weights."""

    longest: int = 0

    def __post_init__(self) -> None:
        """Leave the engine to `of`."""

    @property
    def context_length(self) -> int:
        """Most tokens that a prompt and its answer may have together."""
        return self.longest

    def check(self, directions: SafetyDirections) -> None:
        """Make sure that the workers hold these directions.

        Raises:
            DirectionsMismatchError: They do not.
        """
        if directions.hash not in self.digests:
            msg = (
                f"vLLM's workers hold the directions {sorted(self.digests)}, not {directions.hash}: see engine_options"
            )
            raise DirectionsMismatchError(msg)


def served(llm: VLLM, name: str | None = None) -> ServedVLM:
    """Return the model of an engine, after every worker has said that it is armed.

    Args:
        llm: A `vllm.LLM` that was started with `additional_config=engine_options(...)`.
        name: Folder or hub id of its processor; the engine's own model when `None`.

    Raises:
        EngineRefusedError: The engine, or one of its workers, is not armed.
    """
    from langchain_vlmguard.models.processors import load_processor

    if not hasattr(llm, "llm_engine"):
        msg = f"from_vllm takes a vllm.LLM of this process, not {llm!r}: addresses and other engines are not supported yet"
        raise EngineRefusedError(msg)
    config = llm.llm_engine.vllm_config
    options = EngineOptions.read(config.additional_config)
    if options is None:
        msg = "this engine was not started with additional_config=engine_options(...): nothing would be steered in it"
        raise EngineRefusedError(msg)
    wanted = {one: entry["digest"] for one, entry in options.directions.items()}
    reports = llm.collective_rpc("vlmguard_report")
    if not reports or any(not one.get("armed") or one.get("directions") != wanted for one in reports):
        msg = f"not every worker of this engine is armed with {wanted}: they say {list(reports)}"
        raise EngineRefusedError(msg)
    directions = options.load()
    path = name or config.model_config.model
    processor: ProcessorMixin = load_processor(path)
    found = ServedVLM(
        name=path,
        model=cast("PreTrainedModel", None),
        processor=processor,
        directions=next(iter(directions.values())) if len(directions) == 1 else None,
        digests=frozenset(wanted.values()),
        longest=int(config.model_config.max_model_len),
    )
    object.__setattr__(found, "engine", ServedEngine(llm, {digest: one for one, digest in wanted.items()}))
    return found
