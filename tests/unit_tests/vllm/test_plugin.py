"""Our steps around vLLM's own, with stand-ins for vLLM's objects: what runs inside an engine is tested by `pytest -m vllm`."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from langchain_vlmguard.errors import EngineRefusedError
from langchain_vlmguard.models.checkpoints import checkpoint_path
from langchain_vlmguard.models.guard_files import DIRECTIONS_FILE, named_in
from langchain_vlmguard.models.served import served
from langchain_vlmguard.steering.directions import SafetyDirections
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import Push
from langchain_vlmguard.steering.steering import Steering
from langchain_vlmguard.vllm import layers, plugin
from langchain_vlmguard.vllm.asking import Asked
from langchain_vlmguard.vllm.programmes import DirectionSets
from langchain_vlmguard.vllm.rows import Rows
from langchain_vlmguard.vllm.settings import KEY
from langchain_vlmguard.vllm.tables import Tables


@pytest.fixture(scope="module")
def directions():
    return SafetyDirections.load(named_in(Path(checkpoint_path("testbed")), DIRECTIONS_FILE))


@pytest.fixture
def rows(directions):
    sets = DirectionSets({"safety": directions})
    return Rows(Tables(sets.vectors, 4, 64), sets, "v1")


@pytest.fixture
def settings(directions):
    steering = Steering(directions, (3,), Push(1.5), AlwaysOpen(), gate_layer=2)
    return Asked(steering, "safety", pictured=False, own_query=True).steer({})


def runner(rows, requests):
    """A model runner of vLLM's with requests `name: (computed, prompt, settings)` in this order."""
    states = {
        name: SimpleNamespace(
            num_prompt_tokens=prompt,
            sampling_params=SimpleNamespace(extra_args=None if one is None else {KEY: one.render()}),
        )
        for name, (_, prompt, one) in requests.items()
    }
    batch = SimpleNamespace(req_ids=list(requests), num_computed_tokens_cpu=[done for done, _, _ in requests.values()])
    return SimpleNamespace(input_batch=batch, requests=states, _vlmguard=rows)


def test_the_tokens_of_a_step_follow_their_rows_in_the_order_of_the_batch(rows, settings):
    made = runner(rows, {"a": (0, 4, None), "b": (2, 5, settings), "c": (7, 3, replace(settings, decode=True))})
    rows.begin("c", settings, 3)
    rows._rows["c"].ready = True
    plugin._prepare(lambda *_: "done", made, SimpleNamespace(num_scheduled_tokens={"a": 4, "b": 3, "c": 1}))
    slots = {name: row.slot for name, row in rows._rows.items()}
    assert rows.tables.slot[:9].tolist() == [0, 0, 0, 0, 0, 0, slots["b"], slots["c"], 0]


def test_a_finished_row_frees_its_slot_and_stamps_travel_with_the_output(rows, settings):
    made = runner(rows, {"b": (0, 2, settings)})
    output = SimpleNamespace()

    def forward(*_):
        plugin._prepare(lambda *_: None, made, SimpleNamespace(num_scheduled_tokens={"b": 2}))
        for layer in range(6):
            layers.edit(rows.tables, torch.ones(2, 128), None, layer)

    scheduled = SimpleNamespace(finished_req_ids=set())
    assert plugin._execute(forward, made, scheduled) is None
    assert plugin._stamped(lambda *_: output, made) is output
    assert output._vlmguard["b"]["identity"] == settings.identity
    plugin._execute(lambda *_: None, made, SimpleNamespace(finished_req_ids={"b"}))
    assert len(rows) == 0


def test_blocks_of_edited_tokens_are_never_cached(settings):
    kept = []
    request = SimpleNamespace(num_prompt_tokens=10, _vlmguard=settings)
    plugin._cache(lambda *given: kept.append(given[2]), None, request, 32)
    plugin._cache(lambda *given: kept.append(given[2]), None, SimpleNamespace(num_prompt_tokens=10), 32)
    plugin._cache(lambda *given: kept.append(given[2]), None, request, 4)
    assert kept == [9, 32, 4]


def test_every_decoder_layer_runs_the_op_and_nothing_else_changes(rows, settings):
    class Layer(torch.nn.Module):
        def forward(self, hidden):
            return hidden + 1, hidden

    model = torch.nn.Module()
    model.vision_tower = torch.nn.Module()
    model.vision_tower.layers = torch.nn.ModuleList([Layer() for _ in range(6)])
    model.language = torch.nn.Module()
    model.language.layers = torch.nn.ModuleList([Layer() for _ in range(6)])
    found = layers.decoder_layers(model, 6)
    assert found is model.language.layers
    try:
        assert layers.install(found, rows.tables) == 6
        with pytest.raises(EngineRefusedError, match="already"):
            layers.install(found, rows.tables)
        hidden = torch.zeros(3, 128)
        for layer in found:
            assert torch.equal(layer(hidden)[0], torch.ones(3, 128))
        assert rows.tables.seen[:, 0].tolist() == [3] * 6
        assert {name for name, _ in found[0].named_buffers()} == {f"vlmguard_{name}" for name in rows.tables.tensors}
    finally:
        layers.uninstall()


def test_a_model_whose_layers_are_not_sure_is_refused():
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    with pytest.raises(EngineRefusedError, match="0 lists of 6"):
        layers.decoder_layers(model, 6)


def test_an_engine_that_is_not_armed_makes_no_chat_model():
    config = SimpleNamespace(additional_config={})
    with pytest.raises(EngineRefusedError, match="not started with"):
        served(SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=config)))
    with pytest.raises(EngineRefusedError, match="addresses"):
        served("http://127.0.0.1:8000")
