"""Measure what serving costs: steering a token, the guard a turn, many callers at once, a fit, the import.

    python benchmarks/serving.py                    # everything, to docs/results/performance.json
    python benchmarks/serving.py --only overhead    # one part, the others kept as they are in the file

Everything compared is compared in pairs that take turns within a second or less, so that a neighbour's load falls on both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from langchain_core.messages import HumanMessage
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from langchain_vlmguard import (
    ChatSteeredVLM,
    GuardPolicy,
    ReasoningRewriter,
    SafetyDirections,
    Steering,
    create_vlm_guard,
)
from langchain_vlmguard.models.batch import Batch, encode_rows
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.generation import Request, Settings
from langchain_vlmguard.models.loading import LoadedVLM
from langchain_vlmguard.models.scheduler import Scheduler
from langchain_vlmguard.steering.directions import DirectionsCard, config_hash, weights_hash
from langchain_vlmguard.steering.gates import AlwaysOpen, ClassStats
from langchain_vlmguard.steering.interventions import INTERVENTIONS
from langchain_vlmguard.testbed import load_testbed
from langchain_vlmguard.testbed.anchors import load_testbed_anchors
from langchain_vlmguard.testbed.requests import cells

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "performance.json"
HIDDEN, LAYERS = 1024, 8


def wide_model(testbed: LoadedVLM) -> LoadedVLM:
    """A random LLaVA of hidden size 1024 around the testbed's processor."""
    text = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        vocab_size=len(testbed.processor.tokenizer),
        max_position_embeddings=4096,
        eos_token_id=None,
    )
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=48, patch_size=8
    )
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=testbed.model.config.image_token_id)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return LoadedVLM("wide", model, testbed.processor, None)


def random_directions(model: Any) -> SafetyDirections:
    """Directions of no meaning; they cost what fitted ones cost."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(LAYERS, 1, HIDDEN, generator=generator), dim=-1)
    stats = tuple(ClassStats(torch.ones(1), -torch.ones(1), torch.ones(1)) for _ in range(LAYERS))
    card = DirectionsCard(
        model_id="wide",
        config_hash=config_hash(model),
        weights_hash=weights_hash(model),
        method="svd",
        rank=1,
        layers=LAYERS,
        hidden_size=HIDDEN,
        anchors="none",
        anchors_hash="",
        anchor_pairs=0,
        neutral_pictures=0,
    )
    return SafetyDirections(card, vectors, stats, stats, torch.zeros(4, LAYERS, 1, 2))


def running(loaded: LoadedVLM, steering: Steering | None) -> Batch:
    """A row that was prefilled and decodes."""
    row = to_chat_row([HumanMessage("how do i make a kite ?")], loaded.processor)
    request = Request(loaded, row, Settings(max_tokens=4000), steering)
    batch = Batch([request], encode_rows([request]))
    batch.prefill()
    return batch


def paired(one: Callable[[], object], other: Callable[[], object], pairs: int) -> list[float]:
    """Ratios other/one of turns taken in random order."""
    ratios = []
    order = random.Random(0)
    for _ in range(pairs):
        first_is_one = order.getrandbits(1)
        times = {}
        for step in (one, other) if first_is_one else (other, one):
            started = time.perf_counter()
            step()
            times[step] = time.perf_counter() - started
        ratios.append(times[other] / times[one])
    return ratios


def summary(ratios: list[float]) -> dict[str, float | int]:
    """Median of paired ratios with its 95 % bootstrap interval."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(500))
    return {
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_min": round(medians[12], 4),
        "ratio_max": round(medians[487], 4),
        "runs": len(ratios),
    }


@torch.inference_mode()
def overhead(testbed: LoadedVLM, pairs: int) -> list[dict[str, Any]]:
    """Time of one decoded token under every intervention against none, gate open; and none against none."""
    loaded = wide_model(testbed)
    directions = random_directions(loaded.model)
    found = []
    for name in ("none", *INTERVENTIONS):
        steering = None
        if name != "none":
            steering = Steering(directions, layers=(3,), intervention=INTERVENTIONS[name](), gate=AlwaysOpen())
        plain, steered = running(loaded, None), running(loaded, steering)
        ratios = paired(plain.step, steered.step, pairs)
        steered.close()
        entry = {"intervention": name, "mechanism": "forward hook", "hidden_size": HIDDEN, "device": "cpu"}
        found.append(entry | summary(ratios))
        print(found[-1], flush=True)
    return found


def guard(testbed: LoadedVLM, pairs: int) -> list[dict[str, Any]]:
    """Time of a guarded turn against the plain model's, on harmless and on mixed traffic."""
    plain = ChatSteeredVLM.from_loaded(testbed, steering=None, max_tokens=40)
    steered = ChatSteeredVLM.from_loaded(testbed, max_tokens=40)
    rewriter = ReasoningRewriter.from_adapter(steered)
    found = []
    for mode in ("never", "adaptive", "always"):
        graph = create_vlm_guard(steered, rewriter, policy=GuardPolicy(rewrite=mode)).compile()
        for traffic in ("harmless", "mixed"):
            kinds = [cell for cell in cells() if cell.family != "tool" and (traffic == "mixed" or not cell.harmful)]
            asked = [kinds[at % len(kinds)].sample(at + 1, seed=3)[at].message() for at in range(pairs)]
            ratios = []
            for message in asked:
                ratios += paired(
                    lambda message=message: plain.invoke([message]),
                    lambda message=message, graph=graph: graph.invoke({"messages": [message]}),
                    1,
                )
            found.append({"mode": mode, "traffic": traffic, **summary(ratios)})
            print(found[-1], flush=True)
    return found


def throughput(testbed: LoadedVLM, rounds: int) -> list[dict[str, Any]]:
    """Answers a second with so many callers, each of whom asks again when answered, against one caller."""
    model = ChatSteeredVLM.from_loaded(replace(testbed, scheduler=Scheduler()), max_tokens=40, batch_size=64)
    kinds = [cell for cell in cells() if cell.family != "tool"]
    asked = [[kinds[at % len(kinds)].sample(1, seed=at)[0].message()] for at in range(64)]
    expected = [model.invoke(messages).text for messages in asked]
    found = []
    for callers in (1, 4, 16, 64):
        ratios = []
        for _ in range(rounds):
            alone, _ = _serve(model, asked, 1)
            together, texts = _serve(model, asked, callers)
            ratios.append(alone / together)
        same = sum(one == other for one, other in zip(texts, expected, strict=True)) / len(texts)
        low_high = {"ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3)}
        entry = {"callers": callers, "ratio_to_one": round(statistics.median(ratios), 3), **low_high}
        found.append(entry | {"same_answers": same, "rounds": rounds, "requests": len(asked)})
        print(found[-1], flush=True)
    return found


def _serve(model: ChatSteeredVLM, asked: list[Any], callers: int) -> tuple[float, list[str]]:
    texts = [""] * len(asked)
    waiting = iter(range(len(asked)))

    def call() -> None:
        for at in waiting:
            texts[at] = model.invoke(asked[at]).text

    threads = [threading.Thread(target=call) for _ in range(callers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, texts


def fit_seconds(testbed: LoadedVLM) -> float:
    """Seconds of a fit on 100 pairs of the testbed."""
    anchors = load_testbed_anchors(100)
    started = time.perf_counter()
    SafetyDirections.fit(testbed.model, testbed.processor, anchors, progress=False)
    return round(time.perf_counter() - started, 2)


def import_seconds() -> float:
    """Seconds of `import langchain_vlmguard`, the least of five."""
    code = "import time; t = time.perf_counter(); import langchain_vlmguard; print(time.perf_counter() - t)"
    runs = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]  # noqa: S603
    return round(min(runs), 4)


def main() -> None:
    """Measure, and write what was measured."""
    parts = ("overhead", "guard", "throughput", "fit_seconds", "import_seconds")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=parts, action="append")
    parser.add_argument("--pairs", type=int, default=400, help="pairs a measurement of the overhead")
    parser.add_argument("--turns", type=int, default=60, help="pairs a measurement of the guard")
    parser.add_argument("--rounds", type=int, default=5, help="rounds a measurement of the throughput")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    testbed = load_testbed()
    measures: dict[str, Callable[[], Any]] = {
        "overhead": lambda: overhead(testbed, options.pairs),
        "guard": lambda: guard(testbed, options.turns),
        "throughput": lambda: throughput(testbed, options.rounds),
        "fit_seconds": lambda: fit_seconds(testbed),
        "import_seconds": import_seconds,
    }
    found = json.loads(options.json.read_text()) if options.json.is_file() else {}
    for part in options.only or parts:
        found[part] = measures[part]()
    found["machine"] = f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}"
    found["versions"] = {name: version(name) for name in ("torch", "transformers", "langchain-core")}
    found["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
