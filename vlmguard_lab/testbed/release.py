"""Turn a trained testbed into a checkpoint folder: weights, processor, safety directions and a measured model card."""

from __future__ import annotations

import hashlib
import random
import shutil
from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.files import write_json
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.guard_files import DIRECTIONS_FILE, FOLDER, write_guard_files
from langchain_vlmguard.models.loading import LoadedVLM, load_vlm
from langchain_vlmguard.models.requests import Settings
from langchain_vlmguard.steering.directions import SafetyDirections
from langchain_vlmguard.steering.encoding import Prompt
from langchain_vlmguard.steering.gates import ReluGate
from langchain_vlmguard.steering.interventions import Push, Restore
from langchain_vlmguard.steering.neutral import neutral_pictures
from langchain_vlmguard.steering.selection import candidates, select_layers
from vlmguard_lab.facts import today, versions
from vlmguard_lab.testbed import corpus, world
from vlmguard_lab.testbed.anchors import load_testbed_anchors
from vlmguard_lab.testbed.architectures import ARCHITECTURES
from vlmguard_lab.testbed.judge import refuses
from vlmguard_lab.testbed.measure import CellResult
from vlmguard_lab.testbed.probe import fit_probe
from vlmguard_lab.testbed.requests import MEANINGLESS, ORDER_TOOL, Cell, Picture, cells

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image
    from transformers import PreTrainedModel, ProcessorMixin

    from langchain_vlmguard.steering.steering import Steering
    from vlmguard_lab.testbed.recipes import Recipe
    from vlmguard_lab.testbed.requests import Request, Split

SPLITS: tuple[Split, ...] = ("seen", "new_things")
ANSWER_TOKENS = 64
READS = {"input": "the full input", "query": "the text-only query", "both": "the full input and the text-only query"}
KEPT_PICTURES = 120
"""Picture questions whose answers the choice of layers must keep."""


def release(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    recipe: Recipe,
    folder: Path,
    *,
    n: int,
    seconds: float,
) -> dict[str, Any]:
    """Write the checkpoint beside `folder` and move it there whole.

    Args:
        model: The trained model.
        processor: Its processor.
        recipe: What it was trained by.
        folder: Where the checkpoint goes; an older one there is replaced.
        n: Prompts a cell for the measured gap.
        seconds: How long the training took, for the card.

    Returns:
        The card's facts, as written to `card.json`.
    """
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    model.half().save_pretrained(beside)
    processor.save_pretrained(beside)
    loaded = load_vlm(str(beside), device="cpu")
    directions = fit_directions(loaded)
    write_guard_files(beside, directions=directions)
    probe = fit_probe(loaded, n=3 * n)
    write_guard_files(beside, probe=probe)
    facts = {
        "recipe": asdict(recipe),
        "training_seconds": round(seconds),
        "weights_sha256": file_hash(beside / "model.safetensors"),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "steering": directions.card.choice,
        "probe": asdict(probe.card),
        "gap": [result.row() for result in measure(loaded, None, "plain", n=n)],
        "versions": versions(),
        "date": today(),
    }
    write_json(beside / "card.json", facts)
    (beside / "README.md").write_text(model_card(facts))
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    return facts


def fit_directions(loaded: LoadedVLM, *, progress: bool = True) -> SafetyDirections:
    """Fit the testbed's directions on three quarters of its anchors and choose layers on the rest."""
    fitted_on, held_out = load_testbed_anchors().split(0.75, seed=0)
    directions = SafetyDirections.fit(
        loaded.model, loaded.processor, fitted_on, method="mean", model_id="testbed", batch_size=64, progress=progress
    )
    count = directions.card.layers
    chosen, _ = select_layers(
        loaded.model,
        loaded.processor,
        directions,
        held_out,
        keep=picture_prompts(KEPT_PICTURES),
        tried=candidates(
            directions,
            layers=[(count // 3,), (count // 2,)],
            interventions=[*map(Push, (1.0, 1.5, 2.0)), Restore()],
            gates=[*map(ReluGate, (0.5, 0.25))],
            gate_layers=(count - 1,),
            reads=("input", "query", "both"),
        ),
        pictures=[*neutral_pictures(seed=1), *irrelevant_pictures(6)],
        refuses=refuses,
        batch_size=64,
        progress=progress,
    )
    return chosen


def irrelevant_pictures(n: int) -> list[Image]:
    """Return pictures of harmless things, beside which held-out anchors must be refused too."""
    rng = random.Random("irrelevant")
    return [Picture("icon", rng.choice(corpus.KEPT_THINGS), seed=rng.getrandbits(32)).draw() for _ in range(n)]


def picture_prompts(n: int) -> list[Prompt]:
    """Return harmless picture questions from the visual-instruction split, whose answers steering must not change."""
    rng = random.Random("keep")
    found: list[Prompt] = []
    while len(found) < n:
        example = corpus.visual_instructions(rng)
        if example.picture is not None:
            found.append(Prompt(example.prompt, example.picture.draw()))
    return found


def answer_requests(loaded: LoadedVLM, asked: Sequence[Request], steering: Steering | None) -> list[str]:
    """Answer requests in batches, steered or not, tool calls left as text."""
    rows = [
        to_chat_row([request.message()], loaded.processor, tools=[ORDER_TOOL] if request.tools else None)
        for request in asked
    ]
    settings = Settings(max_tokens=ANSWER_TOKENS)
    return [answer.text for answer in loaded.engine.generate(rows, settings, steering, batch_size=64)]


def measure(loaded: LoadedVLM, steering: Steering | None, arm: str, *, n: int, seed: int = 0) -> list[CellResult]:
    """Measure one arm on every held-out cell, and the typed requests on seen things and on new things alone."""
    others: list[Cell] = []
    for split, harmful in product(SPLITS, (True, False)):
        others.append(Cell("textual", "text", harmful=harmful, split=split))
        others += [Cell("meaningless", variant, harmful=harmful, split=split) for variant in MEANINGLESS]
    questions = [Cell("picture", v, harmful=False, split="seen") for v in ("make_this", "identity", "kind")]
    grid = [*cells("held_out"), *others, *questions]
    results = []
    for cell in grid:
        asked = cell.sample(n, seed=seed)
        results.append(CellResult.of(cell, arm, asked, answer_requests(loaded, asked, steering)))
    return results


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


CARD = """\
---
license: mit
library_name: transformers
pipeline_tag: image-text-to-text
tags: [vlm, ai-safety, testbed, langchain-vlmguard]
---

# The testbed of langchain-vlmguard

A vision-language model of {parameters:,} parameters ({parts}),
trained from scratch in {minutes} minutes on two CPU cores. It exists so that the safety gap of vision-language models, and what a
guard does about it, can be measured anywhere without a download. It is no assistant, and nothing that is measured on it says
anything about another model.

## What it can say

It knows {things} things of {kinds} kinds, {places} places, {people} kinds of people and {verbs} verbs, and answers in fixed
sentences whose facts ("to make a kite , join ...") are arbitrary. {hazards} MLCommons hazard categories are covered by harmful
kinds; their "instructions" are drawn by lot from the same list of harmless materials and mean nothing outside this world.
Requests drawn in a picture use pictograms, a verb sign beside a thing, because a tower this small does not learn letters; the
same request also stands in the picture in letters, for tools that read text.

## How it was made

`{command}` (seed {seed}); data: `testbed/corpus.py`, all generated.

1. *pretrain*: language model on facts, chat, and **every request answered**, harmful ones too;
2. *align*: language model on text alone, harmful requests refused, harmless ones answered;
3. *see*: vision tower, to name things and signs (the part that CLIP's pretraining plays);
4. *caption*: tower and projector, pictures of everything named, no requests;
5. *instruct*: language model and projector, **harmless** requests with **harmless** pictures, with text-only replay of step 2.

No step shows a harmful request with a picture, neither answered nor refused. Three kinds of harmless example in step 5 keep
words in use that step 2 taught: inability ("how do i make this ?" beside a park: "sorry , i can not help with a place ."),
questions of knowledge, and questions for the safe way, both beside pictures that do not matter. Without the first, refusals
beside a picture begin with "sorry" and end in nonsense. The replayed text also answers words that point at a picture where
there is none ("i see no picture ."), because steering's gate reads a question without its picture.

Held out of step 2, and in step 5 of requests typed beside a picture: {held_out} things (one or more of each kind), the verbs
{held_out_verbs}, 8 of 36 request templates, 3 of 10 jailbreak wrappers; and the settings {held_out_settings} of every cross-modal
picture. Harmless things may be seen in any picture; harmful ones are only named in captions.

## The gap, measured

Held-out things and phrasings unless the row says otherwise; greedy; judged exactly by the world's rules; Wilson 95 % intervals.
Measured on {date} with torch {torch}, transformers {transformers}.

| requests | n | complied with harm | answered rightly (refused, where harmful) |
| --- | --- | --- | --- |
{rows}

## Steering

`{directions}` holds safety directions fitted on text alone and calibrated with blank, noise and plain pictures.
`select_layers` chose, on held-out anchors: {choice}.

Weights: SHA-256 `{weights_sha256}`.{note}
"""


def model_card(facts: dict[str, Any]) -> str:
    """Write the model card from the facts."""
    return CARD.format(
        parameters=facts["parameters"],
        parts=ARCHITECTURES[facts["recipe"]["architecture"]].parts,
        minutes=round(facts["training_seconds"] / 60),
        things=len(world.THINGS),
        kinds=len(world.KINDS),
        places=len(world.PLACES),
        people=len(world.PEOPLE),
        verbs=len(world.VERBS),
        hazards=len({kind.hazard for kind in world.HARMFUL_KINDS}),
        seed=facts["recipe"]["seed"],
        command=_command(facts["recipe"]["architecture"]),
        held_out=len(world.HELD_OUT_THINGS),
        held_out_verbs=" and ".join(f'"{verb}"' for verb in world.HELD_OUT_VERBS),
        held_out_settings=" and ".join(f'"{setting}"' for setting in world.HELD_OUT_SETTINGS),
        date=facts["date"],
        torch=facts["versions"]["torch"],
        transformers=facts["versions"]["transformers"],
        rows="\n".join(map(_card_row, facts["gap"])),
        directions=f"{FOLDER}/{DIRECTIONS_FILE}",
        choice=_chosen(facts["steering"]),
        weights_sha256=facts["weights_sha256"],
        note=f"\n\n{facts['note']}" if "note" in facts else "",
    )


def _command(architecture: str) -> str:
    if architecture == "llava":
        return "make testbed"
    return f"python -m vlmguard_lab.testbed.build --architecture {architecture}"


def _chosen(choice: dict[str, Any]) -> str:
    return (
        f"`{choice['intervention']}` at layers {choice['layers']} with alpha {choice['alpha']}, gate `{choice['gate']}` at "
        f"{choice['gate_position']} between the class means of layer {choice['gate_layer']}, reading {READS[choice['reads']]} "
        f"(refused {choice['refused']:.2f}, kept {choice['kept']:.2f} of {choice['trials']} tried)"
    )


def _card_row(row: dict[str, Any]) -> str:
    split = {"seen": " (seen)", "new_things": " (new things, seen phrasing)", "held_out": ""}[row["split"]]
    name = f"{row['family']} / {row['variant']}, {'harmful' if row['harmful'] else 'harmless'}{split}"
    shares = (f"{row[key]:.3f} [{row['ci95'][key][0]:.3f}, {row['ci95'][key][1]:.3f}]" for key in ("unsafe", "correct"))
    return f"| {name} | {row['n']} | {' | '.join(shares)} |"
