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
    InternVLProcessor,
    LlavaProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2VLProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from langchain_vlmguard.models.processors import pictures_only
from vlmguard_lab.testbed.processor import CHAT_TEMPLATE, IMAGE_SIZE, PATCH_SIZE, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import PreTrainedTokenizerFast

    from vlmguard_lab.testbed.recipes import Recipe

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

    picture: str = ""
    """What stands for a picture in a rendered prompt, where that is more than the processor's image token."""

    options: Callable[[PreTrainedTokenizerFast], dict[str, Any]] = lambda _tokenizer: {}
    """What the family's configuration needs besides its text and vision parts."""

    text: Callable[[Recipe], dict[str, Any]] = lambda _recipe: {}
    vision: Callable[[Recipe], dict[str, Any]] = lambda _recipe: {}
    """What the family's text and vision configurations need besides the sizes that all share."""

    def new_processor(self, words: Iterable[str]) -> ProcessorMixin:
        """Train the tokenizer on the world's words and put the family's processor around it."""
        processor = self.processor(train_tokenizer(words, tokens=self.tokens))
        processor.chat_template = CHAT_TEMPLATE.replace("<image>", self.picture or processor.image_token)
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
            **self.text(recipe),
        }
        vision = {
            "model_type": self.vision_type,
            "hidden_size": recipe.vision_hidden,
            "intermediate_size": recipe.vision_hidden * 3,
            "num_hidden_layers": recipe.vision_layers,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            **self.vision(recipe),
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


def _qwen2_vl(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    size = {"shortest_edge": IMAGE_SIZE**2, "longest_edge": IMAGE_SIZE**2}
    pictures = Qwen2VLImageProcessorPil(size=size, patch_size=PATCH_SIZE, merge_size=1, **_PIXELS)
    return pictures_only(Qwen2VLProcessor)(pictures, tokenizer, None)


def _multimodal_rope(recipe: Recipe) -> dict[str, Any]:
    eighth = recipe.hidden // recipe.heads // 16
    sections = [2 * eighth, 3 * eighth, 3 * eighth]
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}}


def _internvl(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    pictures = GotOcr2ImageProcessorPil(size=_SQUARE, max_patches=1, **_PIXELS)
    return pictures_only(InternVLProcessor)(pictures, tokenizer, None, image_seq_length=IMAGE_TOKENS)


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
    "qwen2_vl": Architecture(
        "qwen2_vl",
        "`Qwen2VLForConditionalGeneration`: its ViT on 48 x 48 pictures, Qwen2 decoder",
        _qwen2_vl,
        "qwen2_vl_text",
        "qwen2_vl_vision",
        "visual.merger",
        tokens={
            **_IMAGE,
            "video_token": "<video>",
            "vision_bos_token": "<vision_start>",
            "vision_eos_token": "<vision_end>",
        },
        picture="<vision_start><image><vision_end>",
        options=lambda tokenizer: {
            "image_token_id": tokenizer.image_token_id,
            "video_token_id": tokenizer.video_token_id,
            "vision_start_token_id": tokenizer.vision_bos_token_id,
            "vision_end_token_id": tokenizer.vision_eos_token_id,
        },
        text=_multimodal_rope,
        vision=lambda recipe: {
            "embed_dim": recipe.vision_hidden,
            "hidden_size": recipe.hidden,
            "depth": recipe.vision_layers,
            "num_heads": 4,
            "mlp_ratio": 3,
            "spatial_merge_size": 1,
        },
    ),
    "internvl": Architecture(
        "internvl",
        "`InternVLForConditionalGeneration`: InternViT on 48 x 48 pictures, Qwen2 decoder",
        _internvl,
        "qwen2",
        "internvl_vision",
        "multi_modal_projector",
        tokens={
            "context_image_token": "<image>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "video_token": "<video>",
        },
        options=lambda tokenizer: {
            "image_token_id": tokenizer.context_image_token_id,
            "image_seq_length": IMAGE_TOKENS,
            "downsample_ratio": 1.0,
        },
        vision=lambda _recipe: {
            "image_size": [IMAGE_SIZE, IMAGE_SIZE],
            "patch_size": [PATCH_SIZE, PATCH_SIZE],
        },
    ),
}
"""By the name that `python -m vlmguard_lab.testbed.build --architecture` takes."""
