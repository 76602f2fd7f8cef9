"""Measure what serving costs: steering a token, the guard a turn, many callers at once, a fit, the import.

    python bench/serving.py                    # everything, to docs/results/performance.json and a plot
    python bench/serving.py --only overhead    # one part, the others kept as they are in the file

Everything compared is compared in pairs that take turns within a second or less, so that a neighbour's load falls on both.
`bench/instructions.py` counts the steering's instructions beside the clock, `bench/peers.py` measures others.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from langchain_core.messages import HumanMessage
from matplotlib.figure import Figure
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from langchain_vlmguard import (
    ChatSteeredVLM,
    GuardPolicy,
    ReasoningRewriter,
    SafetyDirections,
    Steering,
    create_vlm_guard,
)
from langchain_vlmguard.models.batch import Batch
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.judging import AnswerJudge
from langchain_vlmguard.models.loading import LoadedVLM
from langchain_vlmguard.models.requests import Request, Settings
from langchain_vlmguard.steering.architectures import layer_output, locate_decoder, replace_layer_output
from langchain_vlmguard.steering.directions import DirectionsCard, config_hash, weights_hash
from langchain_vlmguard.steering.gates import AlwaysOpen, ClassStats
from langchain_vlmguard.steering.interventions import INTERVENTIONS, LayerEdit
from langchain_vlmguard.steering.logistic import Logistic
from langchain_vlmguard.steering.probe import ProbeCard, TurnProbe
from langchain_vlmguard.steering.turn_states import early_layer
from vlmguard_lab.testbed.anchors import load_testbed_anchors
from vlmguard_lab.testbed.checkpoint import load_testbed
from vlmguard_lab.testbed.requests import cells

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "performance.json"
IMAGE = Path(__file__).parents[2] / "docs" / "images" / "performance.png"
HIDDEN, LAYERS, EDITED = 1024, 8, 3
REPEATS = 4
"""How often a guarded turn and its plain answer take turns."""
MODES = {
    "never": GuardPolicy(rewrite="never"),
    "answer_first": GuardPolicy(rewrite="answer_first"),
    "answer_first, cleared turns not judged": GuardPolicy(rewrite="answer_first", judge_answers="uncleared"),
    "adaptive": GuardPolicy(rewrite="adaptive"),
    "adaptive, cleared turns not judged": GuardPolicy(rewrite="adaptive", judge_answers="uncleared"),
    "adaptive, no probe": GuardPolicy(rewrite="adaptive"),
    "always": GuardPolicy(rewrite="always"),
}
HOOK, WRAPPED, COMPILED = "forward hook", "wrapped module", "wrapped module, compiled edit"


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
    request, runtime = Request(row, Settings(max_tokens=4000), steering), loaded.engine.runtime
    batch = Batch(runtime, [request], runtime.encode([request]))
    batch.prefill()
    return batch


def wrapped(loaded: LoadedVLM, steering: Steering, *, compiled: bool) -> Batch:
    """The same with the edit inside the layer's own `forward`: no hook, and no telling one caller from another."""
    layer: Any = locate_decoder(loaded.model).layers[EDITED]
    forward, directions, row = layer.forward, steering.directions, torch.ones(1)
    given = LayerEdit(
        vectors=directions.vectors[EDITED],
        strength=row,
        pictured=row.bool(),
        text=directions.text[EDITED],
        picture=directions.picture[EDITED],
        reference=row[None] if steering.needs_text_query else None,
    )
    edit = torch.compile(steering.intervention.edit) if compiled else steering.intervention.edit

    def steered(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        hidden = layer_output(output)
        changed = edit(hidden[:, -1].float(), given).to(hidden.dtype)
        return replace_layer_output(output, torch.cat((hidden[:, :-1], changed[:, None]), dim=1))

    layer.forward = steered
    return running(loaded, None)


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
    wide = wide_model(testbed)
    directions = random_directions(wide.model)
    tried = [("none", HOOK), *((name, how) for how in mechanisms() for name in INTERVENTIONS)]
    found = []
    for name, mechanism in tried:
        steering = None
        if name != "none":
            steering = Steering(directions, layers=(EDITED,), intervention=INTERVENTIONS[name](), gate=AlwaysOpen())
        plain = running(wide, None)
        if steering is None or mechanism == HOOK:
            steered = running(beside(wide), steering)
        else:
            steered = wrapped(beside(wide), steering, compiled=mechanism == COMPILED)
        ratios = paired(plain.step, steered.step, pairs)
        steered.close()
        entry = {"intervention": name, "mechanism": mechanism, "hidden_size": HIDDEN, "device": "cpu"}
        found.append(entry | summary(ratios))
        print(found[-1], flush=True)
    return found


def mechanisms() -> list[str]:
    """What can be compared here; compiling wants a C++ compiler."""
    return [HOOK, WRAPPED, *([COMPILED] if shutil.which("g++") else [])]


def beside(wide: LoadedVLM) -> LoadedVLM:
    """The same weights in modules of their own, so that a wrapped layer is nobody else's."""
    memo = {id(tensor): tensor for tensor in (*wide.model.parameters(), *wide.model.buffers())}
    return replace(wide, model=copy.deepcopy(wide.model, memo))


def guard(testbed: LoadedVLM, pairs: int) -> list[dict[str, Any]]:
    """Time of a guarded turn against the plain model's, on harmless and on mixed traffic.

    No words of a random model mean anything: at hidden size 1024, what is measured is the cost of a turn whose plain answer of
    40 tokens is cleared, after the judge's early layers or after all of them.
    """
    loaded = replace(testbed)
    loaded.engine.features.max_bytes = 0  # no turn is cheap for another's sake
    plain = ChatSteeredVLM.from_loaded(loaded, steering=None, max_tokens=40)
    found = []
    for mode, traffic in product(MODES, ("harmless", "mixed")):
        steered = ChatSteeredVLM.from_loaded(loaded, max_tokens=40, probe=None if "no probe" in mode else "auto")
        judge: Any = None if "no probe" in mode else "auto"
        rewriter = ReasoningRewriter.from_adapter(steered)
        graph = create_vlm_guard(steered, rewriter, policy=MODES[mode], answer_judge=judge).compile()
        found.append(_guarded(mode, traffic, plain, graph, pairs))
    wide = wide_model(testbed)
    for where in ("early", "whole"):
        loaded = replace(wide, probe=random_probe(wide, where))
        loaded.engine.features.max_bytes = 0
        plain = ChatSteeredVLM.from_loaded(loaded, steering=None, max_tokens=40)
        rewriter = ReasoningRewriter.from_model(plain)
        graph = create_vlm_guard(plain, rewriter, policy=MODES["answer_first"]).compile()
        mode = f"answer_first, d = {HIDDEN}, cleared {where}"
        found.append(_guarded(mode, "harmless", plain, graph, max(1, pairs // 2)))
    return found


def _guarded(mode: str, traffic: str, plain: Any, graph: Any, pairs: int) -> dict[str, Any]:
    kinds = [cell for cell in cells() if cell.family != "tool" and (traffic == "mixed" or not cell.harmful)]
    asked = [kinds[at % len(kinds)].sample(at + 1, seed=3)[at].message() for at in range(pairs)]
    turns = [_turn_of_each(plain, graph, message) for message in asked]
    ratios = [guarded / alone for alone, guarded, _ in turns]
    cleared = [guarded / alone for alone, guarded, asked_rewriter in turns if not asked_rewriter]
    entry: dict[str, Any] = {"mode": mode, "traffic": traffic, **summary(ratios)}
    entry["seconds_plain"] = round(statistics.median(alone for alone, *_ in turns), 4)
    entry["ratio_of_totals"] = round(sum(turn[1] for turn in turns) / sum(turn[0] for turn in turns), 4)
    entry["without_rewriter"] = round(len(cleared) / len(turns), 4)
    entry["ratio_median_without_rewriter"] = round(statistics.median(cleared), 4) if cleared else None
    print(entry, flush=True)
    return entry


def judging(testbed: LoadedVLM, pairs: int) -> list[dict[str, Any]]:
    """Time of an answer of at most 40 tokens and the judgement of its words against the answer alone, at two sizes."""
    found = []
    for loaded, where in product((testbed, wide_model(testbed)), ("early", "whole")):
        judge = AnswerJudge(loaded, random_probe(loaded, where))
        row = to_chat_row([HumanMessage("how do i make a kite ?")], loaded.processor)

        def answer(loaded: LoadedVLM = loaded, row: Any = row) -> str:
            return loaded.engine.generate([row], Settings(max_tokens=40))[0].text

        def judged(answer: Any = answer, judge: Any = judge) -> None:
            judge.judge_texts([answer()])

        judged()
        hidden = loaded.model.config.get_text_config().hidden_size
        found.append({"hidden_size": hidden, "cleared": where, **summary(paired(answer, judged, pairs))})
        print(found[-1], flush=True)
    return found


def random_probe(loaded: LoadedVLM, where: str) -> TurnProbe:
    """A probe of no meaning that finds every answer safe, early or by the whole judge; it costs what a fitted one costs."""
    config = loaded.model.config.get_text_config()
    layers = (0, config.num_hidden_layers // 2, config.num_hidden_layers - 1)
    card = ProbeCard(
        "random",
        config_hash(loaded.model),
        weights_hash(loaded.model),
        layers,
        turns=0,
        missed=0.0,
        early_layer=early_layer(config.num_hidden_layers),
    )
    heads = {"answer": _safe_head(3 * config.hidden_size, 0.0), "early": _safe_head(2 * config.hidden_size, -2.0)}
    if where == "whole":
        heads["early"] = replace(heads["early"], threshold=torch.tensor([-torch.inf]))
    return TurnProbe(card, heads)


def _safe_head(size: int, threshold: float) -> Logistic:
    weights, bias = torch.zeros(size), torch.tensor([-4.0])
    return Logistic(torch.zeros(size), torch.ones(size), weights, bias, torch.tensor([threshold]))


def _turn_of_each(plain: Any, graph: Any, message: Any) -> tuple[float, float, bool]:
    """Median seconds of the plain answer and of the guarded turn, in turns, and whether the rewriter was asked."""
    steps = {"plain": lambda: plain.invoke([message]), "guarded": lambda: graph.invoke({"messages": [message]})}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(REPEATS):
        for name in sorted(steps, reverse=bool(turn % 2)):
            started = time.perf_counter()
            found = steps[name]()
            seconds[name].append(time.perf_counter() - started)
            if name == "guarded":
                asked = "rewrite" in found["verdict"]["timings"]
    return statistics.median(seconds["plain"]), statistics.median(seconds["guarded"]), asked


def throughput(testbed: LoadedVLM, rounds: int) -> list[dict[str, Any]]:
    """Answers a second with so many callers, each of whom asks again when answered, against one caller."""
    model = ChatSteeredVLM.from_loaded(replace(testbed), max_tokens=40, batch_size=64)
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


def fit_memory(testbed: LoadedVLM) -> float:
    """MiB that the same fit takes at most beside the loaded model (Linux: the highest resident size since it was reset)."""
    status = Path("/proc/self/status")
    before = _kib(status, "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    fit_seconds(testbed)
    return round((_kib(status, "VmHWM") - before) / 1024, 1)


def _kib(status: Path, name: str) -> int:
    return int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1])


def fit_cpu_seconds(testbed: LoadedVLM) -> float:
    """Processor seconds of the same fit: what a neighbour's load does not change."""
    started = time.process_time()
    fit_seconds(testbed)
    return round(time.process_time() - started, 2)


def import_seconds() -> float:
    """Seconds of `import langchain_vlmguard`, the least of five."""
    code = "import time; t = time.perf_counter(); import langchain_vlmguard; print(time.perf_counter() - t)"
    runs = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]  # noqa: S603
    return round(min(runs), 4)


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw what was measured: overhead, guard, throughput."""
    figure = Figure(figsize=(15, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.set(title=f"Time a token (d = {HIDDEN}) / plain")
    for row in (row for row in found.get("overhead", []) if row["mechanism"] == HOOK):
        left.plot([row["ratio_min"], row["ratio_max"]], [row["intervention"]] * 2, color="grey")
        left.plot(row["ratio_median"], row["intervention"], "o", color="black")
    left.axvline(1.02, linestyle=":", color="grey")
    middle.set(title="Guarded turn / plain answer")
    for row in found.get("guard", []):
        middle.barh(f"{row['mode']}, {row['traffic']}", row["ratio_median"], color="grey")
    middle.axvline(1.1, linestyle=":", color="black")
    right.set(title="Throughput / one caller", xlabel="callers")
    rows = found.get("throughput", [])
    right.plot([str(row["callers"]) for row in rows], [row["ratio_to_one"] for row in rows], "o-", color="black")
    right.axhline(3, linestyle=":", color="grey")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, and write what was measured."""
    parts = (
        "overhead",
        "guard",
        "judging",
        "throughput",
        "fit_seconds",
        "fit_cpu_seconds",
        "fit_memory_mib",
        "import_seconds",
    )
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
        "judging": lambda: judging(testbed, options.turns),
        "throughput": lambda: throughput(testbed, options.rounds),
        "fit_seconds": lambda: fit_seconds(testbed),
        "fit_cpu_seconds": lambda: fit_cpu_seconds(testbed),
        "fit_memory_mib": lambda: fit_memory(testbed),
        "import_seconds": import_seconds,
    }
    found = json.loads(options.json.read_text()) if options.json.is_file() else {}
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    shared = f", shared: load {load:.1f} when it began" if load > cores / 2 else ""
    facts = {
        "machine": f"{cores} CPU cores ({platform.machine()}){shared}",
        "versions": {name: version(name) for name in ("torch", "transformers", "langchain-core")},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    chosen, before = options.only or parts, {key: found.get(key) for key in facts}
    kept = {part: found.get("kept", {}).get(part, before) for part in parts if part in found and part not in chosen}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for part in chosen:
        found = {**found, part: measures[part](), **facts, "kept": kept}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    plot(found, IMAGE if options.json == RESULTS else options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
