"""What the chat model is told by keyword: required, under other libraries' names, or an error that says what to write."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from langchain_core.messages import HumanMessage, trim_messages
from pydantic import ValidationError

from langchain_vlmguard import ChatSteeredVLM, DirectionsMismatchError, ReasoningRewriter, Steering
from langchain_vlmguard.models.checkpoints import checkpoint_path
from langchain_vlmguard.models.keywords import SYNONYMS
from langchain_vlmguard.steering.interventions import ProjectOut

QUESTION = [HumanMessage("how do i make a kite ?")]


def test_a_model_without_a_name_is_an_error_rather_than_a_toy():
    with pytest.raises(ValidationError, match="name the model: model='path-or-hub-id'"):
        ChatSteeredVLM()


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"model_name": "testbed"}, "model", "testbed"),
        ({"max_new_tokens": 7}, "max_tokens", 7),
        ({"max_completion_tokens": 7}, "max_tokens", 7),
        ({"stop_sequences": ["x"]}, "stop", ["x"]),
        ({"stop": "x"}, "stop", ["x"]),
        ({"request_timeout": 3}, "timeout", 3.0),
        ({"torch_dtype": torch.float16}, "dtype", "float16"),
        ({"dtype": torch.bfloat16}, "dtype", "bfloat16"),
        ({"temperature": None}, "temperature", 0.0),
        ({"max_tokens": None}, "max_tokens", 256),
        ({"steering": None}, "steering", None),
    ],
    ids=str,
)
def test_other_words_and_open_values_are_understood(given, field, value):
    named = {} if "model_name" in given else {"model": "testbed"}
    assert getattr(ChatSteeredVLM(**named, **given), field) == value


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"max_token": 7}, "did you mean 'max_tokens'"),
        ({"revision": "main"}, r"model_kwargs=\{'revision': \.\.\.\}"),
        ({"load_in_4bit": True}, r"quantization_config=BitsAndBytesConfig\(load_in_4bit=True\)"),
        ({"do_sample": True}, "temperature="),
        ({"tools": []}, r"model\.bind_tools"),
        ({"zebra": 1}, "go into model_kwargs"),
        ({"max_tokens": 7, "max_new_tokens": 8}, "another word for 'max_tokens': give one of them"),
        ({"steering": "on"}, "steering must be a Steering, 'auto' or None"),
        ({"probe": "on"}, "probe must be a TurnProbe, 'auto' or None"),
        ({"directions": 3}, "directions must be SafetyDirections or a file of them"),
        ({"fetcher": "none"}, "PictureFetcher"),
    ],
    ids=str,
)
def test_what_would_be_dropped_in_silence_is_an_error_that_says_what_to_write(given, says):
    with pytest.raises(ValidationError, match=says):
        ChatSteeredVLM(model="testbed", **given)


def test_langchains_own_keywords_still_work():
    model = ChatSteeredVLM(
        model="testbed", cache=False, callbacks=[], tags=["a"], metadata={"b": 1}, disable_streaming=True, max_retries=3
    )
    assert (model.tags, model.metadata) == (["a"], {"b": 1})


def test_synonyms_name_fields():
    assert set(SYNONYMS.values()) <= ChatSteeredVLM.model_fields.keys()


@pytest.mark.parametrize("call", [{"max_tokens": 3}, {"max_new_tokens": 3}])
def test_a_call_takes_the_same_words(testbed, call):
    model = ChatSteeredVLM.from_loaded(testbed, temperature=0.5, seed=1)
    assert model.invoke(QUESTION, **call).usage_metadata["output_tokens"] == 3
    assert model.invoke(QUESTION, temperature=None).text == model.invoke(QUESTION).text


def test_one_stop_of_a_call_is_a_text_and_not_its_letters(testbed):
    model = ChatSteeredVLM.from_loaded(testbed, steering=None)
    assert model.invoke(QUESTION, stop="paper").text == model.invoke(QUESTION, stop=["paper"]).text
    assert len(model.invoke(QUESTION, stop="paper").text) > 5


def test_a_calls_values_are_checked_like_the_models(testbed):
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        ChatSteeredVLM.from_loaded(testbed).invoke(QUESTION, temperature=-1.0)


def test_directions_steer_as_they_recommend_wherever_they_are_given(testbed, tmp_path):
    testbed.directions.save(tmp_path / "own.safetensors")
    plain = replace(testbed, directions=None)
    wanted = Steering.recommended(testbed.directions).identity
    for directions in (testbed.directions, tmp_path / "own.safetensors", str(tmp_path / "own.safetensors")):
        assert ChatSteeredVLM.from_loaded(plain, directions=directions).active_steering.identity == wanted
    assert ChatSteeredVLM.from_loaded(plain).active_steering is None
    loaded = ChatSteeredVLM.from_pretrained("testbed", directions=str(tmp_path / "own.safetensors"))
    assert loaded.active_steering.identity == wanted
    assert loaded.active_steering is loaded.active_steering


def test_directions_of_another_model_are_refused(testbed):
    strange = replace(testbed.directions, card=replace(testbed.directions.card, weights_hash="another"))
    with pytest.raises(DirectionsMismatchError):
        ChatSteeredVLM.from_pretrained("testbed", directions=strange)
    with pytest.raises(DirectionsMismatchError):
        ChatSteeredVLM.from_loaded(testbed, directions=strange).invoke(QUESTION)


def test_directions_beside_a_steering_are_two_steerings(testbed):
    with pytest.raises(ValidationError, match="give one of them"):
        ChatSteeredVLM.from_loaded(testbed, directions=testbed.directions, steering=testbed.recommended)


def test_a_cache_key_tells_directions_apart(testbed):
    given = testbed.directions.with_choice({**testbed.directions.card.choice, "alpha": 0.5})
    models = [ChatSteeredVLM.from_loaded(testbed, directions=one) for one in (None, given)]
    assert len({str(model._identifying_params) for model in models}) == 2


def test_only_a_steering_has_a_gate_to_judge_by(testbed):
    steered = ChatSteeredVLM.from_loaded(testbed)
    rewriting = ReasoningRewriter.from_adapter(steered).model
    assert [model.can_judge for model in (steered, rewriting)] == [True, False]
    assert rewriting.screening is None
    with pytest.raises(ValueError, match="judged by the steering's gate"):
        rewriting.judge_texts(["hello"])


def test_chat_models_around_the_same_weights_share_an_engine_and_copies_do_not(testbed):
    one, other = (ChatSteeredVLM.from_loaded(testbed, steering=steering) for steering in ("auto", None))
    assert one.engine is other.engine is testbed.engine
    assert replace(testbed).engine is not testbed.engine


def test_a_steering_of_ones_own_is_told_apart_by_its_provenance(testbed):
    control = replace(testbed.recommended, intervention=ProjectOut())
    answers = [
        ChatSteeredVLM.from_loaded(testbed, steering=one, max_tokens=2).invoke(QUESTION) for one in ("auto", control)
    ]
    found = [answer.response_metadata["provenance"] for answer in answers]
    assert [one["steering"] for one in found] == [testbed.recommended.identity, control.identity]
    assert found[0]["directions"] == found[1]["directions"] == testbed.directions.hash


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_called_a_folder(name):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        ChatSteeredVLM(model=name).invoke("hi")


def test_tokens_are_counted_by_the_models_own_tokenizer():
    model = ChatSteeredVLM.from_pretrained("testbed")
    assert model.get_num_tokens("how do i use a lamp ?") == len(model.get_token_ids("how do i use a lamp ?")) > 3
    long = [HumanMessage("how do i use a lamp ?")] * 9
    kept = trim_messages(long, token_counter=model, max_tokens=20, strategy="last")
    assert 0 < len(kept) < len(long)


def test_directions_and_probe_of_a_hub_repository_are_found(tmp_path):
    """A hub id is steered like the same files in a folder; the repository lies in the hub client's cache."""
    folder, commit = tmp_path / "models--acme--guarded", "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    shutil.copytree(checkpoint_path("testbed"), folder / "snapshots" / commit)
    script = (
        "from langchain_vlmguard import ChatSteeredVLM; m = ChatSteeredVLM.from_pretrained('acme/guarded');"
        "print(m.loaded.directions is not None, m.loaded.probe is not None, m.steering is not None)"
    )
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.stdout.split()[-3:] == ["True", "True", "True"], done.stderr
