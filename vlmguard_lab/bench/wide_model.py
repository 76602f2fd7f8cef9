"""A random LLaVA of hidden size 1024: it says nothing, and steering it costs what steering a real model of that width costs."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from langchain_core.messages import HumanMessage
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from langchain_vlmguard import SafetyDirections
from langchain_vlmguard.models.batch import Batch
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.loading import LoadedVLM
from langchain_vlmguard.models.requests import Request, Settings
from langchain_vlmguard.steering.directions import DirectionsCard, config_hash, weights_hash
from langchain_vlmguard.steering.gates import ClassStats
from langchain_vlmguard.steering.logistic import Logistic
from langchain_vlmguard.steering.probe import ProbeCard, TurnProbe
from langchain_vlmguard.steering.turn_states import early_layer

if TYPE_CHECKING:
    from langchain_vlmguard import Steering
    from langchain_vlmguard.steering.probe import Head

HIDDEN, LAYERS = 1024, 8


def wide_model(testbed: LoadedVLM, *, layers: int = LAYERS) -> LoadedVLM:
    """Return a random LLaVA of hidden size 1024 around the testbed's processor."""
    text = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=layers,
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


def beside(wide: LoadedVLM) -> LoadedVLM:
    """Return the same weights in modules of their own, so that a wrapped layer is nobody else's."""
    memo = {id(tensor): tensor for tensor in (*wide.model.parameters(), *wide.model.buffers())}
    return replace(wide, model=copy.deepcopy(wide.model, memo))


def random_directions(model: Any) -> SafetyDirections:
    """Return directions of no meaning; they cost what fitted ones cost."""
    layers = model.config.get_text_config().num_hidden_layers
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(layers, 1, HIDDEN, generator=generator), dim=-1)
    stats = tuple(ClassStats(torch.ones(1), -torch.ones(1), torch.ones(1)) for _ in range(layers))
    card = DirectionsCard(
        model_id="wide",
        config_hash=config_hash(model),
        weights_hash=weights_hash(model),
        method="svd",
        rank=1,
        layers=layers,
        hidden_size=HIDDEN,
        anchors="none",
        anchors_hash="",
        anchor_pairs=0,
        neutral_pictures=0,
    )
    return SafetyDirections(card, vectors, stats, stats, torch.zeros(4, layers, 1, 2))


def random_probe(loaded: LoadedVLM, where: str) -> TurnProbe:
    """Return a probe of no meaning that finds every answer safe, `"early"` or by the `"whole"` judge."""
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
    early = _safe_head(2 * config.hidden_size, -2.0)
    if where == "whole":
        early = replace(early, threshold=torch.tensor([-torch.inf]))
    heads: dict[Head, Logistic] = {"answer": _safe_head(3 * config.hidden_size, 0.0), "early": early}
    return TurnProbe(card, heads)


def _safe_head(size: int, threshold: float) -> Logistic:
    weights, bias = torch.zeros(size), torch.tensor([-4.0])
    return Logistic(torch.zeros(size), torch.ones(size), weights, bias, torch.tensor([threshold]))


def decoding(loaded: LoadedVLM, steering: Steering | None) -> Batch:
    """Return a batch of one row that was prefilled and decodes, a token a step."""
    row = to_chat_row([HumanMessage("how do i make a kite ?")], loaded.processor)
    request, runtime = Request(row, Settings(max_tokens=4000), steering), loaded.engine.runtime
    batch = Batch(runtime, [request], runtime.encode([request]))
    batch.prefill()
    return batch
