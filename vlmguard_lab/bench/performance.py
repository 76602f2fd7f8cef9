"""What serving costs: steering a token, the guard a turn, many callers at once, a fit, the import.

Everything compared is compared in pairs that take turns within a second or less, so that a neighbour's load falls on both.
`instructions` counts the steering's instructions beside the clock, `peers` measures others.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer
from langchain_core.messages import HumanMessage
from matplotlib.figure import Figure

from langchain_vlmguard import (
    ChatSteeredVLM,
    GuardPolicy,
    ReasoningRewriter,
    SafetyDirections,
    Steering,
    create_vlm_guard,
)
from langchain_vlmguard.files import read_json, write_json
from langchain_vlmguard.models.batch import Batch
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.judging import AnswerJudge
from langchain_vlmguard.models.loading import LoadedVLM
from langchain_vlmguard.models.requests import Settings
from langchain_vlmguard.steering.architectures import layer_output, locate_decoder, replace_layer_output
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import INTERVENTIONS, LayerEdit
from vlmguard_lab.bench import page
from vlmguard_lab.bench.choices import PerformancePart
from vlmguard_lab.bench.parts import Part, forget, measure
from vlmguard_lab.bench.timing import paired, summary
from vlmguard_lab.bench.wide_model import HIDDEN, beside, decoding, random_directions, random_probe, wide_model
from vlmguard_lab.facts import available_cores, run_facts
from vlmguard_lab.testbed.anchors import load_testbed_anchors
from vlmguard_lab.testbed.checkpoint import load_testbed
from vlmguard_lab.testbed.requests import cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_vlmguard.models.batch import Batch
    from langchain_vlmguard.models.loading import LoadedVLM

WORK, IMAGE = page.WORK / "performance", page.IMAGES / "performance.png"
EDITED = 3
"""The layer that is steered."""

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


def run(only: Sequence[PerformancePart], pairs: int, turns: int, rounds: int, output: Path) -> None:
    """Measure some parts, all by default, keep what is known of the others, write the file and draw the plot.

    Args:
        only: What to measure; everything if empty.
        pairs: Pairs a measurement of the overhead.
        turns: Pairs a measurement of the guard.
        rounds: Rounds a measurement of the throughput.
        output: The results; the plot of any other file than the published one lies beside it.
    """
    facts = run_facts()
    torch.set_num_threads(available_cores())
    known = measures(pairs, turns, rounds)
    chosen = list(only or known)
    settings = {"pairs": pairs, "turns": turns, "rounds": rounds}
    found = read_json(output) if output.is_file() else {}
    before = {key: found.get(key) for key in facts}
    kept = {name: found.get("kept", {}).get(name, before) for name in known if name in found and name not in chosen}
    values = measure(WORK, [Part(name, known[name]) for name in chosen], settings=settings)
    found |= {**dict(zip(chosen, values, strict=True)), **facts, "kept": kept}
    write_json(output, found)
    plot(found, IMAGE if output == page.PERFORMANCE else output.with_suffix(".png"))
    forget(WORK)


def measures(pairs: int, turns: int, rounds: int) -> dict[str, Callable[[], Any]]:
    """Return what can be measured, by name."""
    testbed = load_testbed()
    return {
        PerformancePart.overhead: partial(overhead, testbed, pairs),
        PerformancePart.guard: partial(guard, testbed, turns),
        PerformancePart.judging: partial(judging, testbed, turns),
        PerformancePart.throughput: partial(throughput, testbed, rounds),
        PerformancePart.fit_seconds: partial(fit_seconds, testbed),
        PerformancePart.fit_cpu_seconds: partial(fit_cpu_seconds, testbed),
        PerformancePart.fit_memory_mib: partial(fit_memory, testbed),
        PerformancePart.import_seconds: import_seconds,
    }


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
    return decoding(loaded, None)


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
        plain = decoding(wide, None)
        if steering is None or mechanism == HOOK:
            steered = decoding(beside(wide), steering)
        else:
            steered = wrapped(beside(wide), steering, compiled=mechanism == COMPILED)
        ratios = paired(plain.step, steered.step, pairs)
        steered.close()
        entry = {"intervention": name, "mechanism": mechanism, "hidden_size": HIDDEN, "device": "cpu"}
        found.append(entry | summary(ratios))
        typer.echo(found[-1])
    return found


def mechanisms() -> list[str]:
    """What can be compared here; compiling wants a C++ compiler."""
    return [HOOK, WRAPPED, *([COMPILED] if shutil.which("g++") else [])]


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
    typer.echo(entry)
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
        typer.echo(found[-1])
    return found


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
        typer.echo(found[-1])
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
