"""A reference model of a few thousand weights, put together and trained as the real one is."""

from pathlib import Path

import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2Model, Qwen2Tokenizer

from vlmguard_lab.reference.assembly import Halves, assemble
from vlmguard_lab.reference.language import END, PAD

EDGE = 32
_SPECIAL = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def tiny_tokenizer():
    """A letter is a token."""
    letters = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    names = [PAD, END, *_SPECIAL]
    added = {len(letters) + n: AddedToken(name, special=True, normalized=False) for n, name in enumerate(names)}
    return Qwen2Tokenizer(
        vocab=letters,
        merges=[],
        eos_token=END,
        pad_token=PAD,
        added_tokens_decoder=added,
        extra_special_tokens=_SPECIAL,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def tiny_halves(seed=0):
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    seen = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=EDGE, patch_size=16
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    tower = {
        f"vision_model.{n.removeprefix('vision_model.')}": w for n, w in CLIPVisionModel(seen).state_dict().items()
    }
    return Halves(tower, seen, list(Qwen2Model(config).state_dict().items()), config, tokenizer)


def tiny_checkpoint(folder: Path, visual=None):
    assemble(tiny_halves(), folder, visual=visual)
    return folder
