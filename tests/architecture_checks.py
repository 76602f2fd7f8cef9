"""What every architecture must do through the public API, on a tiny random model with its real processor class."""

import torch
from langchain_core.messages import HumanMessage
from PIL import Image

from langchain_vlmguard import ChatSteeredVLM, SafetyDirections, Steering
from langchain_vlmguard.content.images import picture_bytes
from langchain_vlmguard.models.loading import LoadedVLM
from langchain_vlmguard.steering.anchors import AnchorPair, AnchorSet
from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import INTERVENTIONS
from langchain_vlmguard.verdict.limits import ImageLimits
from tests.tiny_models import SIDE, random_directions

TOKENS = 5


def loaded_vlm(model, processor):
    """A tiny model as `load_vlm` would give it."""
    return LoadedVLM("tiny", model, processor, None)


def drawn(colour):
    """A block with a plain picture."""
    import base64

    data = picture_bytes(Image.new("RGB", (SIDE, SIDE), colour), ImageLimits())
    return {"type": "image", "base64": base64.b64encode(data).decode(), "mime_type": "image/png"}


def asked(text, *colours):
    """One user message."""
    return [HumanMessage([*map(drawn, colours), {"type": "text", "text": text}])]


def plain_generate(vlm, messages):
    """The tokens' text by transformers alone."""
    from langchain_vlmguard.models.chat_format import to_chat_row

    row = to_chat_row(messages, vlm.processor)
    pictures = {"images": [list(row.pictures)]} if row.pictures else {}
    encoded = vlm.processor(text=[row.text], **pictures, return_tensors="pt")
    with torch.inference_mode():
        out = vlm.model.generate(**encoded, max_new_tokens=TOKENS, do_sample=False)
    prompt = 0 if vlm.model.config.is_encoder_decoder else encoded["input_ids"].shape[1]
    return vlm.processor.tokenizer.decode(out[0, prompt:], skip_special_tokens=True).strip()


def chat(vlm, **options):
    """The model behind the chat interface."""
    return ChatSteeredVLM.from_loaded(vlm, max_tokens=TOKENS, **options)


def text_only(vlm):
    messages = asked("hello")
    assert chat(vlm, steering=None).invoke(messages).text == plain_generate(vlm, messages)


def one_picture(vlm):
    messages = asked("what is it?", "red")
    answer = chat(vlm, steering=None).invoke(messages)
    assert answer.text == plain_generate(vlm, messages)
    assert answer.usage_metadata["input_tokens"] > 4


def two_pictures(vlm):
    messages = asked("compare", "red", "blue")
    assert chat(vlm, steering=None).invoke(messages).text == plain_generate(vlm, messages)


def mixed_batch(vlm):
    rows = [asked("hello"), asked("what is it?", "red"), asked("a longer question, without"), asked("and?", "blue")]
    model = chat(vlm, steering=None)
    assert [a.text for a in model.batch(rows)] == [plain_generate(vlm, row) for row in rows]


def stream(vlm):
    messages = asked("what is it?", "red")
    model = chat(vlm, steering=None)
    assert "".join(chunk.text for chunk in model.stream(messages)).strip() == model.invoke(messages).text


def fit(vlm):
    pairs = tuple(AnchorPair(f"do harm {i}", f"do good {i}") for i in range(4))
    found = SafetyDirections.fit(
        vlm.model, vlm.processor, AnchorSet("tiny", pairs), pictures=[Image.new("RGB", (SIDE, SIDE))], progress=False
    )
    assert found.vectors.shape[0] == len(locate_decoder(vlm.model))
    assert torch.isfinite(found.vectors).all()


def interventions(vlm):
    directions = random_directions(vlm.model)
    for kind in INTERVENTIONS.values():
        steering = Steering(directions, layers=(2,), intervention=kind(), gate=AlwaysOpen())
        answers = chat(vlm, steering=steering).batch([asked("hello"), asked("what is it?", "red")])
        assert [a.response_metadata["steering"]["intervention"] for a in answers] == [kind.name] * 2


def gate_trace(vlm):
    steering = Steering(random_directions(vlm.model), layers=(2,))
    trace = chat(vlm, steering=steering).invoke(asked("what is it?", "red")).response_metadata["steering"]
    assert trace["picture"] is True
    assert trace["layers"] == [2]
    assert not any(layer._forward_hooks for layer in locate_decoder(vlm.model).layers)


CAPABILITIES = {
    "text": text_only,
    "picture": one_picture,
    "two pictures": two_pictures,
    "mixed batch": mixed_batch,
    "stream": stream,
    "fit": fit,
    "interventions": interventions,
    "gate trace": gate_trace,
}
