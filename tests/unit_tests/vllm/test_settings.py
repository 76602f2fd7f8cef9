"""Rules: one strict key; absent means the operator's default, never off; whatever changes a row is in its salt."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from langchain_vlmguard.errors import EngineRefusedError, MissingStampError, RowSettingsError
from langchain_vlmguard.vllm.checks import EngineOptions, check_engine
from langchain_vlmguard.vllm.settings import KEY, OP_VERSION, RowSettings, settings_of
from langchain_vlmguard.vllm.stamps import Stamp, fault, stamp_of

GATED = RowSettings(
    do="gated",
    directions="safety",
    digest="d" * 16,
    layers=(3,),
    intervention="push",
    alpha=1.5,
    gate="relu",
    position=0.25,
    gate_layer=2,
)
STEER = replace(GATED, do="steer", strength=0.5, gate="", position=None, gate_layer=None)


def given(**changes):
    return json.dumps({**json.loads(GATED.render()), **changes})


@pytest.mark.parametrize("settings", [GATED, STEER, replace(GATED, do="read"), RowSettings("nothing")])
def test_settings_come_back_as_they_were_written(settings):
    assert RowSettings.parse(settings.render()) == settings


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"do": "gated"}, "one JSON text"),
        (1, "one JSON text"),
        ("{", "no JSON"),
        ("[]", "JSON object"),
        ("{}", "needs do"),
        (given(do="off"), "needs do"),
        (given(threshold=1), "not known: threshold"),
        (given(alpha=float("nan")), "NaN"),
        (given(alpha="2"), "field 'alpha'"),
        (given(layers=[True]), "field 'layers'"),
        (given(layers=[]), "field 'layers'"),
        (given(layers=[-1]), "field 'layers'"),
        (given(decode=1), "field 'decode'"),
        (given(digest=""), "digest"),
        (given(gate_layer=4), "above the first edited layer"),
        (given(strength=1.0), "strength belongs to"),
        (given(do="steer"), "strength belongs to"),
        (given(do="steer", strength=1.5), "field 'strength'"),
        (given(reference=[[0.0]]), "reference belongs to"),
    ],
)
def test_what_cannot_be_read_is_refused(bad, said):
    with pytest.raises(RowSettingsError, match=said):
        RowSettings.parse(bad)


def test_a_request_without_settings_is_never_silently_plain():
    with pytest.raises(RowSettingsError, match="is missing"):
        settings_of(None, armed=True, unmarked="refuse")
    assert settings_of({}, armed=True, unmarked=GATED.render()) == GATED
    assert settings_of({KEY: '{"do": "nothing"}'}, armed=True, unmarked=GATED.render()).do == "nothing"


def test_an_engine_without_directions_refuses_what_it_would_not_do():
    with pytest.raises(RowSettingsError, match="nothing would be steered"):
        settings_of({KEY: GATED.render()}, armed=False, unmarked="")
    assert settings_of(None, armed=False, unmarked="").do == "nothing"


def test_the_salt_names_what_is_done_to_the_row():
    salts = [one.salt(None) for one in (GATED, STEER, replace(GATED, alpha=1.0), replace(GATED, digest="e" * 16))]
    assert len({*salts, GATED.salt("theirs"), None}) == len(salts) + 2
    assert GATED.salt(None) == replace(GATED).salt(None)


def test_rows_that_nothing_edits_share_the_plain_cache():
    for settings in (RowSettings("nothing"), replace(GATED, do="read"), replace(STEER, strength=0.0)):
        assert settings.salt(None) is None
        assert settings.salt("theirs") == "theirs"


def stamp(settings=GATED, **changes):
    made = Stamp(
        version=OP_VERSION,
        identity=settings.identity,
        directions=settings.digest,
        do=settings.do,
        score=1.0,
        strength=0.5,
        tokens=1,
        edited=1,
        coordinates=[[1.0]],
        runner="v1",
        error=None,
    )
    return {**made, **changes}


def test_a_whole_stamp_is_taken():
    assert stamp_of({KEY: stamp()}, GATED)["score"] == 1.0
    assert stamp_of(None, RowSettings("nothing")) is None


@pytest.mark.parametrize(
    "bad",
    [
        None,
        {},
        {KEY: None},
        {KEY: stamp(version=0)},
        {KEY: stamp(identity="other")},
        {KEY: stamp(directions="other")},
        {KEY: stamp(do="read")},
        {KEY: stamp(score=None)},
        {KEY: stamp(score=float("nan"))},
        {KEY: stamp(strength=float("nan"))},
        {KEY: stamp(strength=2.0)},
        {KEY: stamp(tokens=0)},
        {KEY: stamp(error="dead")},
    ],
)
def test_no_stamp_no_answer(bad):
    with pytest.raises(MissingStampError, match="is not used"):
        stamp_of(bad, GATED)


def test_a_row_that_was_only_edited_needs_no_score():
    assert fault(stamp(STEER, score=None), STEER) is None


def config(**changes):
    parts = {
        "speculative_config": None,
        "parallel_config": SimpleNamespace(tensor_parallel_size=1, enable_dbo=False),
        "scheduler_config": SimpleNamespace(async_scheduling=False),
        "compilation_config": SimpleNamespace(pass_config=SimpleNamespace(enable_sp=None)),
        "use_v2_model_runner": False,
    }
    return SimpleNamespace(**{**parts, **changes})


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"speculative_config": object()}, "--speculative-config"),
        ({"kv_transfer_config": object()}, "--kv-transfer-config"),
        ({"lora_config": object()}, "--enable-lora"),
        ({"parallel_config": SimpleNamespace(enable_dbo=True)}, "--enable-dbo"),
        ({"parallel_config": SimpleNamespace(tensor_parallel_size=2)}, "--tensor-parallel-size"),
        ({"parallel_config": SimpleNamespace(pipeline_parallel_size=2)}, "--pipeline-parallel-size"),
        ({"scheduler_config": SimpleNamespace(async_scheduling=True)}, "--async-scheduling"),
        ({"compilation_config": SimpleNamespace(pass_config=SimpleNamespace(enable_sp=True))}, "sequence parallel"),
        ({"use_v2_model_runner": True}, "model runner V2"),
    ],
)
def test_what_was_not_tested_is_refused_by_name(changes, flag):
    check_engine(config(), {})
    with pytest.raises(EngineRefusedError, match="was not tested with") as caught:
        check_engine(config(**changes), {})
    assert flag in str(caught.value)


def test_the_front_end_without_python_is_refused():
    with pytest.raises(EngineRefusedError, match="VLLM_USE_RUST_FRONTEND"):
        check_engine(config(), {"VLLM_USE_RUST_FRONTEND": "1"})


@pytest.mark.parametrize(
    "bad", [{}, {"directions": {}}, {"directions": {"a": {"file": "x"}}, "unmarked": "refuse", "version": 1}, "x"]
)
def test_options_of_another_form_stop_the_start(bad):
    with pytest.raises(EngineRefusedError, match="cannot be read"):
        EngineOptions.read({KEY: bad})
    assert EngineOptions.read({}) is None
