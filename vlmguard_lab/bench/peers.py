"""Others on the same model: one added vector while decoding, and text through ChatHuggingFace.

    python vlmguard_lab/bench/peers.py    # adds "peers" to docs/results/performance.json

Wants what is measured: `pip install steering-vectors nnsight repeng langchain-huggingface`, in an environment of their own (their
pins differ); what cannot be imported is named in the result. Every pair is the same model's plain `generate` and its steered one.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from langchain_core.messages import HumanMessage
from transformers import LlamaConfig, LlamaForCausalLM, pipeline

sys.path.insert(0, str(Path(__file__).parents[2]))

from langchain_vlmguard import ChatSteeredVLM, Steering
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import Push
from vlmguard_lab.bench import serving
from vlmguard_lab.testbed.checkpoint import load_testbed

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS, EDITED, TOKENS = 4, 2, 12
PROMPT = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def llama() -> LlamaForCausalLM:
    """A random Llama of hidden size 1024."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=serving.HIDDEN,
        intermediate_size=4 * serving.HIDDEN,
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
    serving.LAYERS = LAYERS
    steering = Steering(serving.random_directions(model), layers=(EDITED,), intervention=Push(), gate=AlwaysOpen())

    def run() -> None:
        with steering.attach(model, pictured=torch.zeros(1, dtype=torch.bool)):
            generate(model)

    return run


def steering_vectors(model: LlamaForCausalLM) -> Callable[[], None]:
    """The steering-vectors package."""
    vector = import_module("steering_vectors").SteeringVector({EDITED: torch.ones(serving.HIDDEN)}, "decoder_block")

    def run() -> None:
        with vector.apply(model, multiplier=0.1):
            generate(model)

    return run


def repeng(model: LlamaForCausalLM) -> Callable[[], None]:
    """The repeng package."""
    package = import_module("repeng")
    control = package.ControlModel(copy.deepcopy(model), [EDITED])
    control.set_control(package.ControlVector("llama", {EDITED: torch.ones(serving.HIDDEN).numpy()}), 0.1)
    return lambda: generate(control)


def nnsight(model: LlamaForCausalLM) -> Callable[[], None]:
    """The nnsight package."""
    traced = import_module("nnsight").LanguageModel(copy.deepcopy(model), tokenizer=load_testbed().processor.tokenizer)
    vector = 0.1 * torch.ones(serving.HIDDEN)

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
    ratios = serving.paired(lambda: theirs.invoke(asked), lambda: our.invoke(asked), pairs)
    return {"peer": "ChatHuggingFace (time of ours / theirs)", **serving.summary(ratios), "same_answer": same}


@torch.inference_mode()
def main() -> None:
    """Measure, and add it to what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    options = parser.parse_args()
    model, found = llama(), []
    for make in (ours, steering_vectors, nnsight, repeng):
        name = make.__name__.replace("_", "-")
        try:
            steered = make(model)
            steered()
            ratios = serving.paired(lambda: generate(model), steered, options.pairs)
            found.append(
                {"peer": name, "version": _version(name), "hidden_size": serving.HIDDEN, **serving.summary(ratios)}
            )
        except Exception as error:  # noqa: BLE001 - a peer that does not run here is a finding
            found.append({"peer": name, "version": _version(name), "error": f"{type(error).__name__}: {error}"[:200]})
        print(found[-1], flush=True)
    try:
        found.append({**chat_hugging_face(options.pairs), "version": _version("langchain-huggingface")})
    except ImportError as error:
        found.append({"peer": "ChatHuggingFace", "error": str(error)})
    print(found[-1], flush=True)
    results = json.loads(serving.RESULTS.read_text()) if serving.RESULTS.is_file() else {}
    facts = {"rows": found, "date": time.strftime("%Y-%m-%d", time.gmtime())}
    serving.RESULTS.write_text(json.dumps({**results, "peers": facts}, indent=1) + "\n")


def _version(name: str) -> str | None:
    try:
        return version("langchain-vlmguard" if name == "ours" else name)
    except ModuleNotFoundError:
        return None


if __name__ == "__main__":
    main()
