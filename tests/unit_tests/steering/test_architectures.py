"""The decoder is found by one rule in real architectures: on the meta device, where nothing is allocated, and in tiny ones."""

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from langchain_vlmguard.errors import UnsupportedArchitectureError
from langchain_vlmguard.steering.architectures import (
    image_token_id,
    layer_output,
    locate_decoder,
    replace_layer_output,
)
from tests.tiny_models import WITH_PROCESSOR, tiny_llava, tiny_paligemma

FAMILIES = {
    "llava": "model.language_model.layers",
    "llava_next": "model.language_model.layers",
    "llava_onevision": "model.language_model.layers",
    "qwen2_vl": "model.language_model.layers",
    "qwen2_5_vl": "model.language_model.layers",
    "qwen3_vl": "model.language_model.layers",
    "gemma3": "model.language_model.layers",
    "gemma4": "model.language_model.layers",
    "paligemma": "model.language_model.layers",
    "idefics2": "model.text_model.layers",
    "idefics3": "model.text_model.layers",
    "smolvlm": "model.text_model.layers",
    "internvl": "model.language_model.layers",
    "mllama": "model.language_model.layers",
    "mistral3": "model.language_model.layers",
    "glm4v": "model.language_model.layers",
    "cohere2_vision": "model.language_model.layers",
    "blip-2": "language_model.model.decoder.layers",
    "florence2": "model.language_model.decoder.layers",
    "kosmos-2": "text_model.model.layers",
    "llama4": "language_model.model.layers",
}


WITHOUT_DECODER = {"blip", "git", "pi0", "pix2struct", "udop", "vision-encoder-decoder"}
"""Captioners, encoder-decoders of other build and a robot policy: their blocks are not a decoder's `layers`."""

RED, BLUE = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")


def on_meta(model_type, config=None):
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config or AutoConfig.for_model(model_type))


def built(model_type):
    """A family's model on the meta device, `None` where its default config is no model or a package is missing."""
    try:
        return on_meta(model_type)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError):
        return None


def found(model):
    try:
        return locate_decoder(model)
    except UnsupportedArchitectureError:
        return None


def encode(processor, *rows):
    """Encode `(text, picture or None)` rows through the chat template, left-padded."""
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [*[{"type": "image"}] * bool(picture), {"type": "text", "text": text}]}],
            add_generation_prompt=True,
        )
        for text, picture in rows
    ]
    pictures = [[picture] if picture else [] for _, picture in rows]
    shown = {"images": pictures} if any(pictures) else {}
    return processor(text=texts, **shown, padding=True, padding_side="left", return_tensors="pt")


def scores(model, inputs):
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    options |= {"output_scores": True, "return_dict_in_generate": True}
    return torch.stack(model.generate(**inputs, **options).scores, dim=1)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_decoder_of_real_architectures_is_found(model_type):
    model = on_meta(model_type)
    decoder = locate_decoder(model)
    text = model.config.get_text_config(decoder=True)
    assert decoder.path == FAMILIES[model_type]
    assert len(decoder) == (getattr(text, "num_hidden_layers", None) or text.decoder_layers)
    assert decoder.hidden_size in {parameter.shape[-1] for parameter in decoder.layers[0].parameters()}


def test_every_image_text_to_text_class_is_found_or_known_not_to_be():
    widths, missed = {}, set()
    for model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        model = built(model_type)
        if model is not None and (decoder := found(model)) is None:
            missed.add(model_type)
        elif model is not None:
            vectors = {weight.shape[0] for weight in decoder.layers[0].parameters() if weight.dim() == 1}
            widths[model_type] = decoder.hidden_size in vectors
    assert missed <= WITHOUT_DECODER
    assert all(widths.values())
    assert len(widths) >= 60


@pytest.mark.parametrize("model_type", ["blip", "git", "vision-encoder-decoder"])
def test_a_captioner_is_a_clear_error(model_type):
    with pytest.raises(
        UnsupportedArchitectureError, match=r"no decoder layers found in \w+ \(looked into .*\): name them"
    ):
        locate_decoder(on_meta(model_type))


def test_a_model_whose_config_has_no_language_model_is_a_clear_error():
    with pytest.raises(UnsupportedArchitectureError, match=r"PI0.* gives its language model no hidden_size"):
        locate_decoder(on_meta("pi0"))


def test_an_encoder_decoder_is_measured_by_its_decoder():
    config = AutoConfig.for_model("florence2")
    config.text_config.decoder_layers = 4
    decoder = locate_decoder(on_meta("florence2", config))
    assert (decoder.path, len(decoder)) == ("model.language_model.decoder.layers", 4)


def test_a_path_can_be_named_and_is_checked():
    model, _ = tiny_llava()
    named = locate_decoder(model, path="model.language_model.layers")
    assert named.layers is locate_decoder(model).layers
    for wrong in ("model.language_model", "nowhere.layers"):
        with pytest.raises(UnsupportedArchitectureError, match="no list of layers"):
            locate_decoder(model, path=wrong)


@pytest.mark.parametrize(
    ("model_type", "path", "objection"),
    [
        ("llava", "model.vision_tower.encoder.layers", "lies in 'vision_tower'"),
        ("qwen2_vl", "model.visual.blocks", "lies in 'visual'"),
        ("idefics", "model.vision_model.encoder.layers", "lies in 'vision_model'"),
        ("idefics2", "model.connector.perceiver_resampler.layers", "holds 3 layers, .* says 32 layers"),
        ("instructblip", "qformer.encoder.layer", "hidden size 768, .* says 12 layers of hidden size 512"),
    ],
)
def test_a_path_to_something_other_than_the_decoder_is_refused(model_type, path, objection):
    config = AutoConfig.for_model(model_type)
    if model_type == "instructblip":
        config.text_config.hidden_size = config.text_config.word_embed_proj_dim = 512
        config.text_config.num_attention_heads = 8
    with pytest.raises(UnsupportedArchitectureError, match=f"is not the decoder of its language model: .*{objection}"):
        locate_decoder(on_meta(model_type, config), path=path)


def test_layers_that_were_put_in_anothers_place_are_found():
    model, _ = tiny_llava()
    before = locate_decoder(model)
    assert locate_decoder(model) is before
    model.model.language_model.layers = nn.ModuleList(before.layers)
    assert locate_decoder(model).layers is model.model.language_model.layers


def test_a_model_with_another_depth_than_its_config_is_refused():
    model, _ = tiny_llava()
    del model.model.language_model.layers[0]
    with pytest.raises(UnsupportedArchitectureError, match="for 3 layers of hidden size 32"):
        locate_decoder(model)


def test_layer_outputs_come_bare_or_in_a_tuple():
    hidden, other = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    assert layer_output(hidden) is layer_output((hidden, "cache")) is hidden
    assert replace_layer_output(hidden, other) is other
    assert replace_layer_output((hidden, "cache"), other) == (other, "cache")
    with pytest.raises(UnsupportedArchitectureError, match="dict"):
        layer_output({"hidden": hidden})


@pytest.mark.parametrize("family", WITH_PROCESSOR)
def test_the_layers_found_are_those_that_make_the_answer(family):
    model, processor = WITH_PROCESSOR[family]()
    decoder = locate_decoder(model)
    assert isinstance(decoder.layers, nn.ModuleList)
    for rows in ([("hello", None)], [("what is this", RED)]):
        inputs = encode(processor, *rows)
        plain = scores(model, inputs)
        handle = decoder.layers[-1].register_forward_hook(
            lambda _m, _i, out: replace_layer_output(out, layer_output(out).flip(-1))
        )
        assert not torch.allclose(scores(model, inputs), plain, atol=1e-4)
        handle.remove()
        assert torch.equal(scores(model, inputs), plain)


@pytest.mark.parametrize("family", WITH_PROCESSOR)
def test_rows_are_read_alike_alone_and_left_padded_beside_others(family):
    model, processor = WITH_PROCESSOR[family]()
    short, long, seen = ("hi", None), ("hello there, how are you?", None), ("what is this", RED)
    batches = [[short, long], [seen, ("and this, right here", BLUE)], [short, seen]]
    if (
        family == "mllama"
    ):  # a row without a picture skips cross-attention alone, not beside one; the package never mixes them
        batches.pop()
    for rows in batches:
        together = scores(model, encode(processor, *rows))
        for index, row in enumerate(rows):
            torch.testing.assert_close(together[index], scores(model, encode(processor, row))[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", WITH_PROCESSOR)
def test_the_picture_stands_where_the_image_tokens_are_and_is_seen(family):
    model, processor = WITH_PROCESSOR[family]()
    red, blue, none = (encode(processor, ("what is this", picture)) for picture in (RED, BLUE, None))
    least = 1 if family == "mllama" else 4  # its decoder attends across to a picture that one token stands for
    assert (red["input_ids"] == image_token_id(model)).sum() >= least
    assert (none["input_ids"] == image_token_id(model)).sum() == 0
    assert torch.equal(red["input_ids"], blue["input_ids"])
    assert not torch.allclose(scores(model, red), scores(model, blue), atol=1e-5)


def test_paligemma_reads_pictures_and_no_text_without_one():
    model, processor = tiny_paligemma()
    assert scores(model, encode(processor, ("what is this", RED))).shape == (1, 3, len(processor.tokenizer))
    with pytest.raises(ValueError, match="`images` are expected"):
        encode(processor, ("hello", None))


def test_a_config_without_an_image_token_has_none():
    assert image_token_id(on_meta("blip-2")) is None
