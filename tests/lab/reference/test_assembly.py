"""The checkpoint is an ordinary LLaVA folder: transformers loads it whole, and pictures and templates go through it."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from langchain_vlmguard.models.loading import load_vlm
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
from tests.lab.reference.tiny import EDGE, tiny_checkpoint, tiny_halves
from vlmguard_lab.reference.assembly import untrained_projector
from vlmguard_lab.reference.sources import from_hub
from vlmguard_lab.reference.tower import resize_positions
from vlmguard_lab.reference.visual_part import VisualPart


def test_every_weight_is_there_and_none_is_left_over(checkpoint):
    model, info = AutoModelForImageTextToText.from_pretrained(checkpoint, output_loading_info=True, dtype=torch.float32)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    halves = tiny_halves()
    for name, weight in halves.tower.items():
        held = model.model.vision_tower.state_dict()
        found = held.get(name, held.get(name.removeprefix("vision_model.")))
        torch.testing.assert_close(found, weight.to(torch.bfloat16).float())
    torch.testing.assert_close(model.lm_head.weight, model.get_input_embeddings().weight)


def test_a_picture_takes_as_many_tokens_as_the_tower_has_patches(checkpoint):
    processor = AutoProcessor.from_pretrained(checkpoint, backend="pil")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi?"}]}]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    rows = processor(text=[text], images=[[Image.new("RGB", (64, 40))]], return_tensors="pt")
    image = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert (rows["input_ids"] == image).sum() == (EDGE // 16) ** 2
    assert rows["pixel_values"].shape[-2:] == (EDGE, EDGE)


def test_the_template_writes_tools_calls_and_results(checkpoint):
    processor = AutoProcessor.from_pretrained(checkpoint, backend="pil")
    call = {"function": {"name": "order", "arguments": {"thing": "lamp"}}}
    turns = [
        {"role": "system", "content": "You sell lamps."},
        {"role": "user", "content": "One, please."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "ordered"},
    ]
    tool = {"type": "function", "function": {"name": "order", "description": "Order.", "parameters": {}}}
    text = processor.apply_chat_template(turns, tools=[tool], add_generation_prompt=True)
    assert "You sell lamps." in text
    assert "You are a helpful assistant." not in text
    assert '<tool_call>\n{"name": "order", "arguments": {"thing": "lamp"}}\n</tool_call>' in text
    assert "<|im_start|>user\n<tool_response>\nordered\n</tool_response><|im_end|>" in text
    assert text.count("<tools>") == 2, "named in the words before, and opened once"


def test_the_chat_model_answers_beside_a_picture(checkpoint):
    loaded = load_vlm(str(checkpoint), device="cpu")
    chat = ChatSteeredVLM.from_loaded(loaded, steering=None, max_tokens=3)
    assert isinstance(chat.invoke("Hi").text, str)


def test_what_was_trained_is_put_in(tmp_path, checkpoint):
    hidden, seen = 32, 24
    chance = torch.Generator().manual_seed(3)
    pair = (torch.randn(2, hidden, generator=chance), torch.randn(hidden, 2, generator=chance))
    projector = {name: weight + 1 for name, weight in untrained_projector(hidden, seen).items()}
    part = VisualPart(projector, {"layers.0.self_attn.q_proj": pair}, 0.5)
    part.save(tmp_path / "part.safetensors", {"recipe": "x"})
    read = VisualPart.load(tmp_path / "part.safetensors")
    assert read.scale == 0.5
    folder = tiny_checkpoint(tmp_path / "out", read)
    before = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).state_dict()
    after = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    added = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert changed == {added, *(f"model.multi_modal_projector.{name}" for name in projector)}
    wanted = before[added] + 0.5 * (pair[1] @ pair[0])
    torch.testing.assert_close(after[added], wanted, atol=0.05, rtol=0.05)


def test_the_makers_folders_give_the_same_halves(tmp_path, checkpoint):
    whole = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    whole.model.vision_tower.save_pretrained(tmp_path / "tower")
    whole.model.language_model.save_pretrained(tmp_path / "language")
    AutoProcessor.from_pretrained(checkpoint, backend="pil").tokenizer.save_pretrained(tmp_path / "language")
    halves = from_hub("0.5b", EDGE, tower=str(tmp_path / "tower"), language=str(tmp_path / "language"))
    mine = tiny_halves()
    assert halves.tower.keys() == mine.tower.keys()
    assert dict(halves.language).keys() == dict(mine.language).keys()
    assert halves.seen.image_size == EDGE
    for name, weight in halves.language:
        torch.testing.assert_close(weight, dict(mine.language)[name], atol=0.01, rtol=0.01)


def test_positions_keep_their_class_token_and_their_order():
    table = torch.arange(1 + 16.0)[:, None].expand(-1, 3)
    small = resize_positions(table, 2)
    assert small.shape == (5, 3)
    assert small[0, 0] == 0
    assert small[1, 0] < small[2, 0] < small[3, 0] < small[4, 0]
    torch.testing.assert_close(resize_positions(table, 4), table)


@pytest.mark.parametrize("text", ["Ärger & 喜び 🙂", "a  b\n\tc"])
def test_the_tokenizer_gives_back_what_it_was_given(checkpoint, text):
    tokenizer = AutoProcessor.from_pretrained(checkpoint, backend="pil").tokenizer
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
