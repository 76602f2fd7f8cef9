"""The decoder is found by one rule in real architectures; built on the meta device, so nothing is allocated."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from langchain_vlmguard.errors import UnsupportedArchitectureError
from langchain_vlmguard.steering.architectures import layer_output, locate_decoder, replace_layer_output

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


def on_meta(model_type):
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_decoder_of_real_architectures_is_found(model_type):
    model = on_meta(model_type)
    decoder = locate_decoder(model)
    text = model.config.get_text_config(decoder=True)
    assert decoder.path == FAMILIES[model_type]
    assert len(decoder) == (getattr(text, "num_hidden_layers", None) or text.decoder_layers)
    assert decoder.hidden_size in {parameter.shape[-1] for parameter in decoder.layers[0].parameters()}


def test_a_model_without_decoder_layers_is_a_clear_error():
    with pytest.raises(
        UnsupportedArchitectureError, match=r"no decoder layers found in BlipForConditionalGeneration .*path="
    ):
        locate_decoder(on_meta("blip"))


def test_a_path_can_be_named_and_is_checked(testbed):
    named = locate_decoder(testbed.model, path="model.language_model.layers")
    assert named.layers is locate_decoder(testbed.model).layers
    for wrong in ("model.language_model", "nowhere.layers"):
        with pytest.raises(UnsupportedArchitectureError, match="no list of layers"):
            locate_decoder(testbed.model, path=wrong)


def test_layer_outputs_come_bare_or_in_a_tuple():
    hidden, other = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    assert layer_output(hidden) is layer_output((hidden, "cache")) is hidden
    assert replace_layer_output(hidden, other) is other
    assert replace_layer_output((hidden, "cache"), other) == (other, "cache")
    with pytest.raises(UnsupportedArchitectureError, match="dict"):
        layer_output({"hidden": hidden})


def test_the_layers_found_are_those_that_make_the_answer(testbed):
    decoder = locate_decoder(testbed.model)
    inputs = testbed.processor(text="hello", return_tensors="pt")
    plain = testbed.model(**inputs).logits
    handle = decoder.layers[-1].register_forward_hook(
        lambda _m, _i, out: replace_layer_output(out, layer_output(out) * 0)
    )
    assert not torch.equal(testbed.model(**inputs).logits, plain)
    handle.remove()
    assert torch.equal(testbed.model(**inputs).logits, plain)
    assert isinstance(decoder.layers, nn.ModuleList)
