"""The architectures that the world can be taught to: the shipped LLaVA, and other frozen targets for one rewriter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Gemma3Processor,
    Idefics3Processor,
    LlavaProcessor,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from langchain_vlmguard.testbed.processor import CHAT_TEMPLATE, IMAGE_SIZE, PATCH_SIZE, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import PreTrainedTokenizerFast

    from langchain_vlmguard.testbed.build import Recipe

IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
"""Tokens of one picture, the same for every architecture: no patches are merged."""

_SQUARE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
_LONGEST = {"longest_edge": IMAGE_SIZE}
_PIXELS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@dataclass(frozen=True)
class Architecture:
    """How the world's tokenizer, a picture processor and a recipe's sizes become one family's model."""

    model_type: str
    """The family's name in transformers."""

    parts: str
    """Class and parts, for the model card."""

    processor: Callable[[PreTrainedTokenizerFast], ProcessorMixin]
    text_type: str
    vision_type: str
    projector: str
    """Name of the projector inside the model's body."""

    tokens: dict[str, str] = field(default_factory=lambda: {"image_token": "<image>"})
    """The family's special tokens beside those of the world, by the tokenizer's attribute."""

    options: Callable[[PreTrainedTokenizerFast], dict[str, Any]] = lambda _tokenizer: {}
    """What the family's configuration needs besides its text and vision parts."""

    def new_processor(self, words: Iterable[str]) -> ProcessorMixin:
        """Train the tokenizer on the world's words and put the family's processor around it."""
        processor = self.processor(train_tokenizer(words, tokens=self.tokens))
        processor.chat_template = CHAT_TEMPLATE.replace("<image>", processor.image_token)
        return processor

    def new_model(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
        """Return the family's untrained model in a recipe's sizes."""
        special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        text = {
            "model_type": self.text_type,
            "vocab_size": len(tokenizer),
            "hidden_size": recipe.hidden,
            "intermediate_size": recipe.hidden * 3,
            "num_hidden_layers": recipe.layers,
            "num_attention_heads": recipe.heads,
            "num_key_value_heads": recipe.heads,
            "head_dim": recipe.hidden // recipe.heads,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            **special,
        }
        vision = {
            "model_type": self.vision_type,
            "hidden_size": recipe.vision_hidden,
            "intermediate_size": recipe.vision_hidden * 3,
            "num_hidden_layers": recipe.vision_layers,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        }
        options = {"tie_word_embeddings": True, **special, **self.options(tokenizer)}
        config = AutoConfig.for_model(self.model_type, text_config=text, vision_config=vision, **options)
        model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        _start_projection(model)
        return model


def _start_projection(model: PreTrainedModel) -> None:
    """Give Gemma's projection, which starts as zeros and is filled by its checkpoint, something to learn from."""
    for name, parameter in model.named_parameters():
        if name.endswith("mm_input_projection_weight"):
            nn.init.normal_(parameter, std=0.02)


def _image_token_index(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {"image_token_index": tokenizer.image_token_id, "image_seq_length": IMAGE_TOKENS, "vision_feature_layer": -1}


def _llava(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    pictures = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=_SQUARE, **_PIXELS)
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _gemma3(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    pictures = Gemma3ImageProcessorPil(size=_SQUARE, **_PIXELS)
    return Gemma3Processor(pictures, tokenizer, image_seq_length=IMAGE_TOKENS)


def _idefics3(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    pictures = Idefics3ImageProcessorPil(size=_LONGEST, max_image_size=_LONGEST, do_image_splitting=False, **_PIXELS)
    return Idefics3Processor(pictures, tokenizer, image_seq_len=IMAGE_TOKENS)


_IMAGE = {"image_token": "<image>"}

LLAVA = Architecture(
    "llava",
    "`LlavaForConditionalGeneration`: CLIP ViT on 48 x 48 pictures, Llama decoder",
    _llava,
    "llama",
    "clip_vision_model",
    "multi_modal_projector",
    options=_image_token_index,
)

ARCHITECTURES = {
    "llava": LLAVA,
    "gemma3": Architecture(
        "gemma3",
        "`Gemma3ForConditionalGeneration`: SigLIP ViT on 48 x 48 pictures, Gemma 3 decoder",
        _gemma3,
        "gemma3_text",
        "siglip_vision_model",
        "multi_modal_projector",
        tokens={**_IMAGE, "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        options=lambda tokenizer: {
            "mm_tokens_per_image": IMAGE_TOKENS,
            "image_token_index": tokenizer.image_token_id,
            "boi_token_index": tokenizer.boi_token_id,
            "eoi_token_index": tokenizer.eoi_token_id,
        },
    ),
    "idefics3": Architecture(
        "idefics3",
        "`Idefics3ForConditionalGeneration`: SigLIP-like ViT on 48 x 48 pictures, Llama decoder",
        _idefics3,
        "llama",
        "idefics3_vision",
        "connector",
        tokens={**_IMAGE, "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>"},
        options=lambda tokenizer: {"scale_factor": 1, "image_token_id": tokenizer.image_token_id},
    ),
}
"""By the name that `python -m langchain_vlmguard.testbed.build --architecture` takes."""
