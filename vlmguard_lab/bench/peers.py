"""Others on the same model: one added vector while decoding, and text through ChatHuggingFace.

What is measured is installed in an environment of its own (the pins differ); what cannot be imported is named in the result.
Every pair is the same model's plain `generate` and its steered one.
"""

from __future__ import annotations

import copy
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
import typer
from langchain_core.messages import HumanMessage
from transformers import LlamaConfig, LlamaForCausalLM, pipeline

from langchain_vlmguard import ChatSteeredVLM, Steering
from langchain_vlmguard.files import read_json, write_json
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import Push
from vlmguard_lab.bench import page
from vlmguard_lab.bench.timing import paired, summary
from vlmguard_lab.bench.wide_model import HIDDEN, random_directions
from vlmguard_lab.facts import run_facts
from vlmguard_lab.testbed.checkpoint import load_testbed

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS, EDITED, TOKENS = 4, 2, 12
PROMPT = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def llama() -> LlamaForCausalLM:
    """A random Llama of hidden size 1024."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        vocab_size=1000,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    return model


def generate(model: Any) -> None:
    """Decode a few tokens."""
    model.generate(
        PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
    )


def ours(model: LlamaForCausalLM) -> Callable[[], None]:
    """This package."""
    steering = Steering(random_directions(model), layers=(EDITED,), intervention=Push(), gate=AlwaysOpen())

    def run() -> None:
        with steering.attach(model, pictured=torch.zeros(1, dtype=torch.bool)):
            generate(model)

    return run


def steering_vectors(model: LlamaForCausalLM) -> Callable[[], None]:
    """The steering-vectors package."""
    vector = import_module("steering_vectors").SteeringVector({EDITED: torch.ones(HIDDEN)}, "decoder_block")

    def run() -> None:
        with vector.apply(model, multiplier=0.1):
            generate(model)

    return run


def repeng(model: LlamaForCausalLM) -> Callable[[], None]:
    """The repeng package."""
    package = import_module("repeng")
    control = package.ControlModel(copy.deepcopy(model), [EDITED])
    control.set_control(package.ControlVector("llama", {EDITED: torch.ones(HIDDEN).numpy()}), 0.1)
    return lambda: generate(control)


def nnsight(model: LlamaForCausalLM) -> Callable[[], None]:
    """The nnsight package."""
    traced = import_module("nnsight").LanguageModel(copy.deepcopy(model), tokenizer=load_testbed().processor.tokenizer)
    vector = 0.1 * torch.ones(HIDDEN)

    def run() -> None:
        options = {"attention_mask": torch.ones_like(PROMPT), "do_sample": False, "pad_token_id": 0}
        with traced.generate(PROMPT, max_new_tokens=TOKENS, **options) as tracer:
            for _ in tracer.iter[0:TOKENS]:
                traced.model.layers[EDITED].output[:] += vector

    return run


def chat_hugging_face(pairs: int) -> dict[str, Any]:
    """The same text through `ChatHuggingFace` and through `ChatSteeredVLM`, unsteered, on the testbed's language model."""
    package = import_module("langchain_huggingface")
    testbed = load_testbed()
    inner = LlamaForCausalLM(testbed.model.config.text_config).eval()
    inner.model = testbed.model.model.language_model
    inner.lm_head = testbed.model.lm_head
    tokenizer = testbed.processor.tokenizer
    tokenizer.chat_template = tokenizer.chat_template or testbed.processor.chat_template
    made = pipeline(
        "text-generation", model=inner, tokenizer=tokenizer, max_new_tokens=40, do_sample=False, return_full_text=False
    )
    theirs = package.ChatHuggingFace(llm=package.HuggingFacePipeline(pipeline=made), tokenizer=tokenizer)
    our = ChatSteeredVLM.from_loaded(testbed, steering=None, max_tokens=40)
    asked = [HumanMessage("how do i make a kite ?")]
    same = theirs.invoke(asked).text.replace("<end>", "").strip() == our.invoke(asked).text
    ratios = paired(lambda: theirs.invoke(asked), lambda: our.invoke(asked), pairs)
    return {"peer": "ChatHuggingFace (time of ours / theirs)", **summary(ratios), "same_answer": same}


@torch.inference_mode()
def run(pairs: int) -> None:
    """Measure all that is installed here, and write it beside what was measured of this package."""
    facts, model, found = run_facts(), llama(), []
    for make in (ours, steering_vectors, nnsight, repeng):
        found.append(_measured(make, model, pairs))
        typer.echo(found[-1])
    try:
        found.append({**chat_hugging_face(pairs), "version": _version("langchain-huggingface")})
    except ImportError as error:
        found.append({"peer": "ChatHuggingFace", "error": str(error)})
    typer.echo(found[-1])
    results = read_json(page.PERFORMANCE) if page.PERFORMANCE.is_file() else {}
    write_json(page.PERFORMANCE, {**results, "peers": {"rows": found, **facts}})


def _measured(make: Callable[[LlamaForCausalLM], Callable[[], None]], model: LlamaForCausalLM, pairs: int) -> Any:
    name = make.__name__.replace("_", "-")
    try:
        steered = make(model)
        steered()
        ratios = paired(lambda: generate(model), steered, pairs)
    except Exception as error:  # noqa: BLE001 - a peer that does not run here is a finding
        return {"peer": name, "version": _version(name), "error": f"{type(error).__name__}: {error}"[:200]}
    return {"peer": name, "version": _version(name), "hidden_size": HIDDEN, **summary(ratios)}


def _version(name: str) -> str | None:
    try:
        return version("langchain-vlmguard" if name == "ours" else name)
    except PackageNotFoundError:
        return None
