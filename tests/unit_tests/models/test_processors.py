"""Checkpoints whose processor also reads video load without torchvision, for pictures and text."""

import importlib.util

import pytest
from langchain_core.messages import HumanMessage

from langchain_vlmguard import ChatSteeredVLM
from langchain_vlmguard.models.processors import load_processor
from tests.pictures import READABLE
from tests.tiny_models import WITH_PROCESSOR

VIDEO = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl")


@pytest.fixture(params=VIDEO)
def checkpoint(request, tmp_path):
    model, processor = WITH_PROCESSOR[request.param]()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path, model, processor


def test_a_family_that_reads_video_is_loaded_with_pictures_and_text(checkpoint):
    folder, _, processor = checkpoint
    loaded = load_processor(str(folder))
    assert type(loaded).__name__ == type(processor).__name__
    if importlib.util.find_spec("torchvision") is None:
        assert loaded.video_processor is None


def test_such_a_checkpoint_answers_through_the_chat_model(checkpoint):
    folder, _, _ = checkpoint
    model = ChatSteeredVLM.from_pretrained(str(folder), max_tokens=3, steering=None)
    answer = model.invoke([HumanMessage([{"type": "text", "text": "hello"}, READABLE["v1 image"]])])
    assert answer.usage_metadata["output_tokens"] >= 1


def test_a_folder_without_any_processor_is_an_error_of_its_own(tmp_path):
    model, _ = WITH_PROCESSOR["llava"]()
    model.save_pretrained(tmp_path)
    with pytest.raises((OSError, ValueError)):
        load_processor(str(tmp_path))
