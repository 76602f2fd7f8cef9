"""Tiny randomly initialised models of real architectures, and directions for them."""

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.directions import DirectionsCard, SafetyDirections, config_hash, weights_hash
from langchain_vlmguard.steering.gates import ClassStats

TEXT = {
    "hidden_size": 256,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "depth": 1,
    "embed_dim": 32,
    "num_heads": 2,
    "out_hidden_size": 256,
    "num_global_layers": 1,
    "attention_heads": 2,
}


def tiny(model_type):
    """Build a family's model with its own config class, shrunk."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type)
    text = config.get_text_config()
    for key, value in TEXT.items():
        setattr(text, key, value)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:3]
    rope = getattr(text, "rope_parameters", None) or {}
    if "mrope_section" in rope or model_type == "glm4v":
        rope["mrope_section"] = [16, 24, 24]
    for key, value in VISION.items():
        if hasattr(config.vision_config, key):
            setattr(config.vision_config, key, value)
    return AutoModelForImageTextToText.from_config(config).eval()


def random_directions(model, *, rank=1, seed=0):
    """Directions with random vectors, for tests of mechanics."""
    decoder = locate_decoder(model)
    depth, hidden = len(decoder), decoder.hidden_size
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(depth, hidden, rank, generator=generator)).Q.transpose(1, 2)
    stats = tuple(
        ClassStats(torch.full((rank,), 1.0), torch.full((rank,), -1.0), torch.ones(rank)) for _ in range(depth)
    )
    card = DirectionsCard(
        model_id="tiny",
        config_hash=config_hash(model),
        weights_hash=weights_hash(model),
        method="svd",
        rank=rank,
        layers=depth,
        hidden_size=hidden,
        anchors="none",
        anchors_hash="",
        anchor_pairs=0,
        neutral_pictures=0,
    )
    return SafetyDirections(card, vectors, stats, stats, torch.zeros(4, depth, 1, 2))
