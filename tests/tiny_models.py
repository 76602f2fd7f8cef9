"""Tiny randomly initialised models of real architectures: bare, or with a real processor; and directions for them.

`tiny("mllama")` is a model alone. `tiny_llava()` and its siblings, listed in `WITH_PROCESSOR`, give `(model, processor)`
that read text and 32 x 32 pictures and generate: the family's own processor class on the PIL backend, around a byte-level
tokenizer made here. A new family is one more function that names its special tokens, its image processor and its sizes.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AyaVisionProcessor,
    Gemma3Processor,
    Glm4vProcessor,
    Glm46VProcessor,
    Idefics2Processor,
    Idefics3Processor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    MllamaProcessor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from langchain_vlmguard.models.processors import pictures_only
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


SIDE, PATCH = 32, 8
"""Pictures are 32 x 32: 4 x 4 patches."""

SQUARE = {"height": SIDE, "width": SIDE}
SMALL_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
SMALL_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
CHAT_TEMPLATE = """\
{%- for message in messages %}<{{ message.role }}>
{%- if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}{% if part.type == 'image' %}PICTURE{% else %}{{ part.text }}{% endif %}\
{% endfor %}{% endif %}<eos>{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""


def byte_tokenizer(named):
    """A tokenizer of the 256 bytes and special tokens; `{"image_token": "<image>"}` becomes `tokenizer.image_token(_id)`."""
    named = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", **named}
    words = [*named.values(), "<system>", "<user>", "<assistant>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate([*words, *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(words)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        model_max_length=512,
        **named,
    )


def assemble(processor, model_type, *, text, vision, picture=None, **config):
    """Finish a family: chat template for the processor, config and seeded weights for the model.

    Args:
        processor: The family's processor around a `byte_tokenizer`.
        model_type: The family's name in transformers.
        text: What the text config needs besides `SMALL_TEXT`.
        vision: The whole vision config.
        picture: What stands for a picture in a rendered prompt, where that is more than the image token.
        **config: What the outer config needs.
    """
    tokenizer = processor.tokenizer
    processor.chat_template = CHAT_TEMPLATE.replace("PICTURE", picture or processor.image_token)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    text = {**SMALL_TEXT, "vocab_size": len(tokenizer), **special, **text}
    built = AutoConfig.for_model(model_type, text_config=text, vision_config=vision, **config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(built).eval()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


def tiny_llava():
    """CLIP and Llama; 16 tokens a picture."""
    return _llava("llava")


def _llava(model_type, **config):
    tokenizer = byte_tokenizer({"image_token": "<image>"})
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return assemble(
        processor,
        model_type,
        text={"model_type": "llama"},
        vision={**SMALL_VISION, "model_type": "clip_vision_model"},
        image_token_index=tokenizer.image_token_id,
        **config,
    )


def tiny_llava_next():
    """CLIP and Llama, the picture also in tiles."""
    tokenizer = byte_tokenizer({"image_token": "<image>"})
    grid = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    processor = LlavaNextProcessor(
        LlavaNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=grid),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return assemble(
        processor,
        "llava_next",
        text={"model_type": "llama"},
        vision={**SMALL_VISION, "model_type": "clip_vision_model"},
        image_token_index=tokenizer.image_token_id,
        image_grid_pinpoints=grid,
    )


def tiny_qwen2_vl():
    """Multimodal rotary positions; 4 tokens a picture."""
    return _qwen(Qwen2VLProcessor, "qwen2_vl", vision={"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2})


def tiny_qwen2_5_vl():
    """As Qwen2-VL, with windows in the vision encoder."""
    vision = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "window_size": 2 * PATCH}
    return _qwen(Qwen2_5_VLProcessor, "qwen2_5_vl", vision={**vision, "fullatt_block_indexes": [1]})


def tiny_qwen3_vl():
    """As Qwen2-VL, with vision features added deep in the decoder."""
    vision = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "num_position_embeddings": 16}
    return _qwen(
        Qwen3VLProcessor, "qwen3_vl", vision={**vision, "deepstack_visual_indexes": [0]}, mrope_interleaved=True
    )


def tiny_qwen3_vl_moe():
    """As Qwen3-VL, with experts."""
    vision = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "num_position_embeddings": 16}
    return _qwen(
        Qwen3VLProcessor,
        "qwen3_vl_moe",
        vision={**vision, "deepstack_visual_indexes": [0]},
        text={"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        mrope_interleaved=True,
    )


def _qwen(processor_class, model_type, *, vision, text=None, **rope):
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    edges = {"vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"}
    tokenizer = byte_tokenizer(names | edges)
    pixels = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    rope_parameters = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], **rope}
    return assemble(
        pictures_only(processor_class)(Qwen2VLImageProcessorPil(size=pixels, patch_size=PATCH), tokenizer, None),
        model_type,
        text={"rope_parameters": rope_parameters, **(text or {})},
        vision={"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2, **vision},
        picture="<|vision_start|><|image_pad|><|vision_end|>",
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
    )


def tiny_gemma3():
    """SigLIP and Gemma, pictures attended to in both directions; 4 tokens a picture."""
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = byte_tokenizer(names)
    model, processor = assemble(
        Gemma3Processor(Gemma3ImageProcessorPil(size=SQUARE), tokenizer, image_seq_length=4),
        "gemma3",
        text={"model_type": "gemma3_text", "query_pre_attn_scalar": 16},
        vision={**SMALL_VISION, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    # Its projection starts as zeros, with which a model not yet trained sees no picture.
    torch.nn.init.eye_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model, processor


def tiny_gemma4():
    """Pictures of any shape and layers with a sliding window; 70 tokens a picture, the fewest that it knows."""
    names = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    sounds = {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    tokenizer = byte_tokenizer({**names, **sounds, "video_token": "<|video|>"})
    images = Gemma4ImageProcessorPil(patch_size=PATCH, max_soft_tokens=70, pooling_kernel_size=2)
    vision = {name: value for name, value in SMALL_VISION.items() if name != "image_size"}
    return assemble(
        pictures_only(Gemma4Processor)(Gemma4AudioFeatureExtractor(), images, tokenizer),
        "gemma4",
        text={
            "model_type": "gemma4_text",
            "vocab_size_per_layer_input": len(tokenizer),
            "hidden_size_per_layer_input": 0,
            "global_head_dim": 16,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        vision={
            **vision,
            "model_type": "gemma4_vision",
            "num_key_value_heads": 2,
            "head_dim": 16,
            "pooling_kernel_size": 2,
            "position_embedding_size": 64,
        },
        **{
            f"{name}_id": getattr(tokenizer, f"{name}_id")
            for name in (*names, *sounds, "video_token")
            if name != "eoa_token"
        },
        eoa_token_index=tokenizer.eoa_token_id,
    )


def tiny_paligemma():
    """SigLIP and Gemma, the whole prompt attended to in both directions; its processor refuses text without a picture."""
    tokenizer = byte_tokenizer({"image_token": "<image>"})
    images = SiglipImageProcessorPil(size=SQUARE)
    images.image_seq_length = (SIDE // PATCH) ** 2
    return assemble(
        PaliGemmaProcessor(images, tokenizer),
        "paligemma",
        text={"model_type": "gemma"},
        vision={**SMALL_VISION, "model_type": "siglip_vision_model", "projection_dim": 32},
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
    )


def tiny_idefics2():
    """A perceiver between SigLIP and Mistral; 4 tokens a picture."""
    names = {
        "image_token": "<image>",
        "image_boundary_token": "<fake_token_around_image>",
        "turn_token": "<end_of_utterance>",
    }
    tokenizer = byte_tokenizer(names)
    edges = {"longest_edge": SIDE, "shortest_edge": SIDE}
    images = Idefics2ImageProcessorPil(size=edges, do_image_splitting=False)
    return assemble(
        Idefics2Processor(images, tokenizer, image_seq_len=4),
        "idefics2",
        text={"model_type": "mistral", "sliding_window": None},
        vision={**SMALL_VISION, "model_type": "idefics2_vision"},
        perceiver_config={
            "model_type": "idefics2_perceiver",
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 2,
        },
        image_token_id=tokenizer.image_token_id,
    )


def tiny_idefics3():
    """The decoder under another name, `text_model`; 4 tokens a picture."""
    names = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
    }
    tokenizer = byte_tokenizer(names)
    longest = {"longest_edge": SIDE}
    images = Idefics3ImageProcessorPil(size=longest, max_image_size=longest, do_image_splitting=False)
    return assemble(
        Idefics3Processor(images, tokenizer, image_seq_len=4),
        "idefics3",
        text={"model_type": "llama"},
        vision={**SMALL_VISION, "model_type": "idefics3_vision"},
        scale_factor=2,
        image_token_id=tokenizer.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_internvl():
    """InternViT and Qwen2; 4 tokens a picture between tokens of its own."""
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = byte_tokenizer({**names, "video_token": "<video>"})
    processor = pictures_only(InternVLProcessor)(
        GotOcr2ImageProcessorPil(size=SQUARE, max_patches=1), tokenizer, None, image_seq_length=4
    )
    vision = {**SMALL_VISION, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}
    return assemble(
        processor,
        "internvl",
        text={"model_type": "qwen2"},
        vision={**vision, "model_type": "internvl_vision"},
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        downsample_ratio=0.5,
    )


def tiny_vipllava():
    """LLaVA with features of several vision layers."""
    return _llava("vipllava", vision_feature_layers=[-2, -1])


def tiny_llava_onevision():
    """SigLIP and Qwen2, the picture also in tiles."""
    tokenizer = byte_tokenizer({"image_token": "<image>", "video_token": "<video>"})
    grid = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    processor = pictures_only(LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=grid),
        tokenizer,
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
    )
    return assemble(
        processor,
        "llava_onevision",
        text={"model_type": "qwen2"},
        vision={**SMALL_VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=grid,
    )


def tiny_aya_vision():
    """SigLIP and Cohere; the picture in tiles, 4 tokens each."""
    tokens = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_1", "TILE_GLOBAL")
    tokenizer = byte_tokenizer(
        {"image_token": "<image>"} | {f"extra_{at}_token": word for at, word in enumerate(tokens)}
    )
    processor = AyaVisionProcessor(
        GotOcr2ImageProcessorPil(size=SQUARE, max_patches=1),
        tokenizer,
        patch_size=PATCH,
        img_size=SIDE,
        downsample_factor=2,
    )
    return assemble(
        processor,
        "aya_vision",
        text={"model_type": "cohere2"},
        vision={**SMALL_VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
    )


def tiny_glm46v():
    """As GLM-4V."""
    return tiny_glm4v("glm46v", Glm46VProcessor, Glm46VImageProcessorPil)


def tiny_glm4v_moe():
    """As GLM-4V, with experts."""
    return tiny_glm4v("glm4v_moe", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)


def tiny_glm4v(model_type="glm4v", processor_class=Glm4vProcessor, image_class=Glm4vImageProcessorPil, **text):
    """Multimodal rotary positions; 4 tokens a picture."""
    names = {"image_token": "<|image|>", "video_token": "<|video|>"}
    edges = {"vision_bos_token": "<|begin_of_image|>", "vision_eos_token": "<|end_of_image|>"}
    tokenizer = byte_tokenizer(names | edges)
    pixels = {"shortest_edge": SIDE * SIDE, "longest_edge": 2 * SIDE * SIDE}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 64,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}
    return assemble(
        pictures_only(processor_class)(image_class(size=pixels, patch_size=PATCH), tokenizer),
        model_type,
        text={"rope_parameters": rope, **text},
        vision={**vision, "out_hidden_size": 32, "spatial_merge_size": 2},
        picture="<|begin_of_image|><|image|><|end_of_image|>",
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        image_start_token_id=tokenizer.vision_bos_token_id,
        image_end_token_id=tokenizer.vision_eos_token_id,
    )


def tiny_mllama():
    """Pictures through cross-attention layers of the decoder."""
    tokenizer = byte_tokenizer({"image_token": "<|image|>", "python_token": "<|python_tag|>"})
    images = MllamaImageProcessorPil(size=SQUARE, max_image_tiles=1)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 2,
    }
    model, processor = assemble(
        MllamaProcessor(images, tokenizer),
        "mllama",
        text={"model_type": "mllama_text_model", "cross_attention_layers": [1], "num_hidden_layers": 3},
        vision={
            **vision,
            "image_size": SIDE,
            "patch_size": PATCH,
            "max_num_tiles": 1,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1]],
        },
        image_token_index=tokenizer.image_token_id,
    )
    # Its cross-attention starts shut, with which a model not yet trained sees no picture.
    for name, parameter in model.named_parameters():
        if "cross_attn" in name and name.endswith("gate"):
            torch.nn.init.ones_(parameter)
    return model, processor


WITH_PROCESSOR = {
    "llava": tiny_llava,
    "llava_next": tiny_llava_next,
    "qwen2_vl": tiny_qwen2_vl,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "qwen3_vl": tiny_qwen3_vl,
    "qwen3_vl_moe": tiny_qwen3_vl_moe,
    "gemma3": tiny_gemma3,
    "gemma4": tiny_gemma4,
    "idefics2": tiny_idefics2,
    "idefics3": tiny_idefics3,
    "internvl": tiny_internvl,
    "vipllava": tiny_vipllava,
    "llava_onevision": tiny_llava_onevision,
    "aya_vision": tiny_aya_vision,
    "glm4v": tiny_glm4v,
    "glm4v_moe": tiny_glm4v_moe,
    "glm46v": tiny_glm46v,
    "mllama": tiny_mllama,
}
"""The families here that read text with and without pictures, by their names in transformers."""
