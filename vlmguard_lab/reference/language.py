"""The reference model's language model: Qwen2.5-Coder-Instruct, read from a GGUF file that is split over packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken
from transformers import Qwen2Config, Qwen2Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from vlmguard_lab.reference.gguf import GGUFFile

END, PAD, IMAGE = "<|im_end|>", "<|endoftext|>", "<|image_pad|>"
_CONTROL, _UNUSED = 3, 5
_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def language_config(gguf: GGUFFile) -> Qwen2Config:
    """Return the configuration that the file's metadata describe."""
    about = gguf.metadata
    return Qwen2Config(
        vocab_size=len(about["tokenizer.ggml.tokens"]),
        hidden_size=about["qwen2.embedding_length"],
        intermediate_size=about["qwen2.feed_forward_length"],
        num_hidden_layers=about["qwen2.block_count"],
        num_attention_heads=about["qwen2.attention.head_count"],
        num_key_value_heads=about["qwen2.attention.head_count_kv"],
        max_position_embeddings=about["qwen2.context_length"],
        rms_norm_eps=round(about["qwen2.attention.layer_norm_rms_epsilon"], 12),
        rope_parameters={"rope_type": "default", "rope_theta": about["qwen2.rope.freq_base"]},
        tie_word_embeddings=True,
        eos_token_id=about["tokenizer.ggml.eos_token_id"],
        pad_token_id=about["tokenizer.ggml.padding_token_id"],
    )


def language_weights(gguf: GGUFFile) -> Iterator[tuple[str, Tensor]]:
    """Give each weight in float32 under the name it has in `Qwen2Model`.

    The makers' model has one table for words in and words out. The file stores it twice, the one for words out with more
    bits, so that one is taken for both.
    """
    for name in gguf.names:
        if name == "token_embd.weight":
            continue
        yield _name(name), torch.from_numpy(gguf.tensor(name))


def _name(name: str) -> str:
    if name in {"output.weight", "output_norm.weight"}:
        return {"output.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}[name]
    _, layer, part, kind = name.split(".")
    return f"layers.{layer}.{_NAMES[part]}.{kind}"


def read_tokenizer(about: dict[str, Any]) -> Qwen2Tokenizer:
    """Return the tokenizer that a GGUF file's metadata describe, control tokens marked as such."""
    tokens, kinds = about["tokenizer.ggml.tokens"], about["tokenizer.ggml.token_type"]
    plain = {token: number for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == 1}
    added = {
        number: AddedToken(token, special=kind == _CONTROL, normalized=False)
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind not in {1, _UNUSED}
    }
    merges = [tuple(merge.split(" ")) for merge in about["tokenizer.ggml.merges"]]
    return Qwen2Tokenizer(
        vocab=plain,
        merges=merges,
        eos_token=END,
        pad_token=PAD,
        added_tokens_decoder=added,
        extra_special_tokens=[
            token.content for token in added.values() if token.special and token.content not in {END, PAD}
        ],
        model_max_length=about["qwen2.context_length"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
