"""Whether vLLM does what the local engine does: the same gate scores and the same tokens, row by row, in mixed batches."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import extra
from langchain_vlmguard.files import write_json
from langchain_vlmguard.models.guard_files import DIRECTIONS_FILE, named_in
from langchain_vlmguard.models.loading import load_testbed
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from langchain_vlmguard.steering.gates import AlwaysOpen, MidpointGate, ReluGate
from langchain_vlmguard.steering.interventions import Amplify, ProjectOut, Push, Restore, Transplant
from langchain_vlmguard.steering.steering import Steering
from langchain_vlmguard.vllm.checks import engine_options
from vlmguard_lab.bench.vllm_env import export
from vlmguard_lab.testbed.requests import cells

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from langchain_core.messages import AIMessage, HumanMessage

    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.models.served import VLLM
    from langchain_vlmguard.steering.directions import SafetyDirections

TOKENS = 24
AT_ONCE = 32
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Difference:
    """What two engines made of one row."""

    kind: str
    text: str
    local: str
    served: str
    picture: bool
    gate: float
    """How far the gate's scores lie apart; 0 where nothing was read."""

    @property
    def same(self) -> bool:
        """Whether both gave the same answer."""
        return self.local == self.served


def start(folder: Path, *, step_tokens: int = 64) -> VLLM:
    """Start an engine for processors on the testbed, in this process, armed with its directions.

    Args:
        folder: Where the testbed is exported to.
        step_tokens: Most tokens a step; few, so that prompts are cut in chunks.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with extra("vllm"):
        from vllm import LLM

    checkpoint = export("testbed", folder)
    llm: VLLM = LLM(
        str(checkpoint),
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=16,
        max_num_batched_tokens=step_tokens,
        async_scheduling=False,
        enable_prefix_caching=True,
        disable_log_stats=True,
        limit_mm_per_prompt={"image": 2},
        additional_config=engine_options({"safety": named_in(checkpoint, DIRECTIONS_FILE)}),
    )
    return llm


def steerings(directions: SafetyDirections) -> dict[str, Steering | None]:
    """Return one steering of every kind that the workers know, and none."""
    return {
        "plain": None,
        "recommended": Steering.recommended(directions),
        "push, own gate": Steering(directions, (3,), Push(1.5), ReluGate(0.25), gate_layer=3),
        "push, gate below": Steering(directions, (3, 4), Push(0.8), MidpointGate(), gate_layer=2),
        "restore, gate above": Steering(directions, (3,), Restore(), ReluGate(), gate_layer=5),
        "restore, both": Steering(directions, (3,), Restore(), ReluGate(0.25), gate_layer=4, reads="both"),
        "amplify": Steering(directions, (4,), Amplify(0.5), AlwaysOpen(), decode=False),
        "project out": Steering(directions, (2,), ProjectOut(), MidpointGate()),
        "transplant": Steering(directions, (3,), Transplant(), ReluGate(), gate_layer=5, reads="query"),
        "request": Steering(directions, (3,), Push(1.5), ReluGate(0.25), gate_layer=5, reads="request", decode=False),
    }


def compare(
    llm: VLLM, count: int, *, local: LoadedVLM | None = None, progress: Callable[[int], None] = lambda _: None
) -> list[Difference]:
    """Answer mixed requests by both engines, many at a time, each under the next kind of steering.

    Args:
        llm: An engine of `start`.
        count: Requests.
        local: The testbed in memory; it is loaded when `None`.
        progress: Called with how many are done.
    """
    local = _same_pixels(local or load_testbed(), llm)
    if local.directions is None:
        msg = "the testbed has lost its directions"
        raise ValueError(msg)
    kinds = steerings(local.directions)
    own = {name: ChatSteeredVLM.from_loaded(local, steering=one, max_tokens=TOKENS) for name, one in kinds.items()}
    other = {name: ChatSteeredVLM.from_vllm(llm, steering=one, max_tokens=TOKENS) for name, one in kinds.items()}
    shared = next(iter(other.values())).loaded
    for chat in other.values():
        chat._loaded = shared  # noqa: SLF001 - one queue for all, so that their rows share batches
    every = list(cells())
    sampled = (one for seed in range(count) for cell in every for one in cell.sample(1, seed=seed))
    work = [(kind, request.message()) for kind, request in zip(cycle(kinds), islice(sampled, count), strict=False)]

    def both(one: tuple[str, HumanMessage]) -> Difference:
        kind, message = one
        return _difference(kind, message, own[kind].invoke([message]), other[kind].invoke([message]))

    found = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for difference in pool.map(both, work):
            found.append(difference)
            progress(len(found))
    return found


def _same_pixels(local: LoadedVLM, llm: VLLM) -> LoadedVLM:
    """Give the local engine the processor as vLLM loads it: it resizes by torchvision, and ours by Pillow, to other pixels."""
    from transformers import AutoProcessor

    path = llm.llm_engine.vllm_config.model_config.model
    return replace(local, processor=AutoProcessor.from_pretrained(path))


def _difference(kind: str, message: HumanMessage, local: AIMessage, served: AIMessage) -> Difference:
    traces = [one.response_metadata.get("steering") or {} for one in (local, served)]
    texts = [_answer(one) for one in (local, served)]
    gate = max(abs(traces[0][name] - traces[1][name]) for name in ("score", "risk")) if any(traces) else 0.0
    return Difference(kind, str(message.text), texts[0], texts[1], not isinstance(message.content, str), gate)


def _answer(message: AIMessage) -> str:
    usage = message.usage_metadata or {"output_tokens": 0}
    return f"{message.text} [{usage['output_tokens']} tokens, {message.response_metadata['finish_reason']}]"


def run(count: int, folder: Path, output: Path, say: Callable[[str], None]) -> None:
    """Compare and write what was found."""
    say("starting vLLM (a minute or more on two cores)")
    llm = start(folder)
    found = compare(llm, count, progress=lambda done: say(f"{done} of {count}") if done % 50 == 0 else None)
    for one in found:
        if not one.same:
            say(f"{one.kind}: {one.text!r}\n  local  {one.local}\n  vLLM   {one.served}")
    facts = {
        "equality": {
            "requests": len(found),
            "same_tokens": sum(one.same for one in found),
            "gate_max_abs_diff": max(one.gate for one in found),
            "gate_max_abs_diff_without_picture": max((one.gate for one in found if not one.picture), default=0.0),
            "kinds": sorted({one.kind for one in found}),
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, eager, float32",
        "engine_core_apart": os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1",
        "versions": _versions(),
    }
    write_json(output, facts)
    say(str(facts["equality"]))


def _versions() -> dict[str, str]:
    import torch
    import transformers
    import vllm

    return {"torch": torch.__version__, "transformers": transformers.__version__, "vllm": vllm.__version__}
