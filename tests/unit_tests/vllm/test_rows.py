"""Rules: position and request id decide, never the shape of a step; the graph reads tensors alone; no edit without a stamp.

These test the code that fills the tables with made-up steps: what a graph on a GPU replays is not run here.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from langchain_vlmguard.errors import EngineRefusedError, RowSettingsError
from langchain_vlmguard.models.checkpoints import checkpoint_path
from langchain_vlmguard.models.guard_files import DIRECTIONS_FILE, named_in
from langchain_vlmguard.steering.directions import SafetyDirections
from langchain_vlmguard.steering.gates import AlwaysOpen, MidpointGate, ReluGate, ZeroGate
from langchain_vlmguard.steering.interventions import Amplify, Fulfil, ProjectOut, Push, Restore, Transplant
from langchain_vlmguard.steering.steering import Steering
from langchain_vlmguard.vllm.asking import Asked
from langchain_vlmguard.vllm.checks import EngineOptions, engine_options
from langchain_vlmguard.vllm.programmes import DirectionSets
from langchain_vlmguard.vllm.rows import Rows, Span
from langchain_vlmguard.vllm.settings import RowSettings
from langchain_vlmguard.vllm.stamps import fault
from langchain_vlmguard.vllm.tables import Tables, edit

FILE = named_in(Path(checkpoint_path("testbed")), DIRECTIONS_FILE)
DEPTH, WIDTH = 6, 128


@pytest.fixture(scope="module")
def directions():
    return SafetyDirections.load(FILE)


@pytest.fixture
def rows(directions):
    sets = DirectionSets({"safety": directions})
    return Rows(Tables(sets.vectors, 4, 64), sets, "v1")


def asked(directions, *, pictured=False, **changes):
    steering = Steering(directions, **{"layers": (3,), "gate_layer": 2, "intervention": Push(1.5), **changes})
    return Asked(steering, "safety", pictured=pictured, own_query=True)


def states(count, seed=0):
    return 4 * torch.randn(DEPTH, count, WIDTH, generator=torch.Generator().manual_seed(seed))


def run(rows, spans, hidden, residual=None):
    """Let one step pass every layer and return the edited states and the stamps."""
    rows.fill(spans)
    made = hidden.clone()
    for layer in range(DEPTH):
        edit(rows.tables, made[layer], None if residual is None else residual[layer], layer)
    return made, rows.collect()


def by_hand(steering, hidden, *, pictured, reference=None):
    """What the Hugging Face path does with one row's last token at the edited layer."""
    [layer] = steering.layers
    seen = torch.tensor([pictured])
    reading = steering.read_gate(seen, hidden[steering.read_layer, -1:])
    place = steering.layer_edit(layer, reading.strength, seen, reference)
    return reading, steering.intervention.edit(hidden[layer, -1:], place)[0]


@pytest.mark.parametrize("pictured", [False, True])
@pytest.mark.parametrize("gate", [ReluGate(0.25), MidpointGate(), ZeroGate(), AlwaysOpen()], ids=lambda one: one.name)
@pytest.mark.parametrize("edits", [Push(1.5), Restore(), Amplify(0.7), ProjectOut()], ids=lambda one: one.name)
def test_a_row_is_read_and_edited_as_without_vllm(rows, directions, edits, gate, pictured):
    one = asked(directions, pictured=pictured, intervention=edits, gate=gate)
    for seed in range(3):
        hidden = states(5, seed)
        rows.begin(f"r{seed}", one.steer({}), 5)
        made, stamps = run(rows, [Span(f"r{seed}", 0, 5)], hidden)
        reading, wanted = by_hand(one.steering, hidden, pictured=pictured)
        assert stamps[f"r{seed}"]["score"] == pytest.approx(float(reading.score[0]), abs=1e-4)
        assert one.trace({"input": stamps[f"r{seed}"]}, stamps[f"r{seed}"])["strength"] == float(reading.strength[0])
        assert torch.allclose(made[3, -1], wanted, atol=1e-3)
        untouched = torch.ones_like(made, dtype=torch.bool)
        untouched[3, -1] = False
        assert torch.equal(made[untouched], hidden[untouched])


@pytest.mark.parametrize("edits", [Transplant(), Fulfil(0.5)], ids=lambda one: one.name)
def test_an_edit_by_the_text_query_takes_what_a_first_request_read(rows, directions, edits):
    one = replace(asked(directions, pictured=True, intervention=edits, reads="query"), own_query=False)
    query, full = states(4, 1), states(7, 2)
    rows.begin("q", one.read(query=True), 4)
    _, stamps = run(rows, [Span("q", 0, 4)], query)
    rows.begin("r", one.steer({"query": stamps["q"]}), 7)
    made, last = run(rows, [Span("r", 0, 7)], full)
    trace = one.trace({"query": stamps["q"]}, last["r"])
    reference = query[3, -1:] @ directions.vectors[3].T
    reading = one.steering.read_gate(torch.tensor([True]), None, query[2, -1:])
    place = one.steering.layer_edit(3, reading.strength, torch.tensor([True]), reference)
    assert torch.allclose(made[3, -1], edits.edit(full[3, -1:], place)[0], atol=1e-3)
    assert trace["score"] == pytest.approx(float(reading.score[0]), abs=1e-4)


def test_the_state_is_the_sum_of_hidden_and_residual(rows, directions):
    hidden, residual = states(5), states(5, 9)
    rows.begin("r", asked(directions).steer({}), 5)
    _, stamps = run(rows, [Span("r", 0, 5)], hidden, residual)
    assert stamps["r"]["score"] == pytest.approx(float((hidden + residual)[2, -1] @ directions.vectors[2, 0]), abs=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 4, 12])
def test_the_last_prompt_token_reads_whatever_the_chunks_are(rows, directions, chunk):
    hidden, prompt = states(12), 12
    rows.begin("r", asked(directions, gate=AlwaysOpen()).steer({}), prompt)
    stamped = {}
    for start in range(0, prompt, chunk):
        count = min(chunk, prompt - start)
        _, stamps = run(
            rows,
            [Span("plain", 0, 2), Span("r", start, count)],
            torch.cat((states(2, 5), hidden[:, start : start + count]), 1),
        )
        stamped |= stamps
    assert stamped["r"]["tokens"] == 1
    assert stamped["r"]["edited"] == 1
    assert stamped["r"]["score"] == pytest.approx(float(hidden[2, -1] @ directions.vectors[2, 0]), abs=1e-4)


def test_decoded_tokens_are_edited_only_where_the_steering_says_so(rows, directions):
    for decode, tokens in ((True, 4), (False, 1)):
        rows.begin("r", asked(directions, gate=AlwaysOpen(), decode=decode).steer({}), 3)
        _, stamps = run(rows, [Span("r", 0, 3)], states(3))
        for position in range(3, 6):
            _, later = run(rows, [Span("r", position, 1)], states(1, position))
            stamps |= later
        assert stamps["r"]["tokens"] == tokens
        rows.finish(["r"])


def test_a_preempted_row_keeps_its_gate_and_its_tokens_are_edited_again(rows, directions):
    one = asked(directions)
    rows.begin("r", one.steer({}), 3)
    first = run(rows, [Span("r", 0, 3)], states(3))[1]["r"]
    run(rows, [Span("r", 3, 1)], states(1, 1))
    rows.begin("r", one.steer({}), 3)  # it is scheduled again from the start, prompt and answer as one prefill
    made, again = run(rows, [Span("r", 0, 5)], states(5, 2))
    assert again["r"]["score"] == first["score"]
    assert again["r"]["strength"] == first["strength"]
    assert again["r"]["error"] is None
    changed = (made[3] != states(5, 2)[3]).any(1).tolist()
    assert changed == [False, False, *[first["strength"] > 0] * 3]


def test_a_row_whose_gate_was_never_read_ends_with_an_error(rows, directions):
    rows.begin("r", asked(directions).steer({}), 3)
    _, stamps = run(rows, [Span("r", 3, 1)], states(1))
    assert "never run" in fault(stamps["r"], asked(directions).steer({}))


def test_a_step_that_skipped_the_op_is_no_stamped_step(rows, directions):
    settings = asked(directions).steer({})
    rows.begin("r", settings, 3)
    rows.fill([Span("r", 0, 3)])
    for layer in range(DEPTH - 1):
        edit(rows.tables, states(3)[layer], None, layer)
    assert "should have passed the edit at every layer" in fault(rows.collect()["r"], settings)


def test_a_full_table_is_an_error_of_that_row_alone_and_empties_again(rows, directions):
    settings = asked(directions).steer({})
    names = [f"r{number}" for number in range(5)]
    for name in names:
        rows.begin(name, settings, 1)
    _, stamps = run(rows, [Span(name, 0, 1) for name in names], states(5))
    assert [fault(stamps[name], settings) is None for name in names] == [True] * 4 + [False]
    rows.finish(names)
    assert len(rows) == 0
    assert not any(table.any() for name, table in rows.tables.tensors.items() if name not in ("vectors", "seen"))
    rows.begin("again", settings, 1)
    assert run(rows, [Span("again", 0, 1)], states(1))[1]["again"]["error"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"directions": "other"}, "no directions 'other'"),
        ({"digest": "0" * 16}, "were asked for"),
        ({"layers": (9,)}, "no layer 9"),
        ({"gate": "placed"}, "cannot be read in vLLM"),
        ({"gate": "other"}, "cannot be read in vLLM"),
        ({"intervention": "other"}, "no intervention"),
        ({"intervention": "transplant"}, "needs reference"),
        ({"max_scale": 2.0}, "takes no max_scale"),
    ],
)
def test_what_the_worker_cannot_do_ends_that_row_and_no_other(rows, directions, changes, said):
    good = asked(directions).steer({})
    bad = replace(good, **changes)
    rows.begin("bad", bad, 2)
    rows.begin("good", good, 2)
    _, stamps = run(rows, [Span("bad", 0, 2), Span("good", 0, 2)], states(4))
    assert said in stamps["bad"]["error"]
    assert fault(stamps["good"], good) is None


def test_rows_of_one_batch_do_not_touch_each_other(rows, directions):
    hidden = states(9)
    rows.begin("open", asked(directions, gate=AlwaysOpen()).steer({}), 3)
    made, _ = run(rows, [Span("a", 0, 3), Span("open", 0, 3), Span("b", 0, 3)], hidden)
    assert torch.equal(made[:, [0, 1, 2, 3, 4, 6, 7, 8]], hidden[:, [0, 1, 2, 3, 4, 6, 7, 8]])
    assert not torch.equal(made[3, 5], hidden[3, 5])


def test_more_tokens_than_there_is_room_for_are_an_error(rows):
    with pytest.raises(ValueError, match="made for 64"):
        edit(rows.tables, torch.zeros(65, WIDTH), None, 0)


def test_several_sets_of_directions_lie_side_by_side(directions):
    other = replace(directions, vectors=-directions.vectors)
    sets = DirectionSets({"safety": directions, "other": other})
    rows = Rows(Tables(sets.vectors, 4, 64), sets, "v1")
    settings = replace(asked(directions).steer({}), directions="other", digest=other.hash)
    rows.begin("r", settings, 3)
    hidden = states(3)
    _, stamps = run(rows, [Span("r", 0, 3)], hidden)
    assert stamps["r"]["score"] == pytest.approx(-float(hidden[2, -1] @ directions.vectors[2, 0]), abs=1e-4)


def test_empty_directions_do_not_arm(directions):
    for vectors in (torch.zeros_like(directions.vectors), directions.vectors * float("nan")):
        with pytest.raises(ValueError, match="no number"):
            DirectionSets({"safety": replace(directions, vectors=vectors)})


def test_a_gate_above_the_edit_is_read_before(directions):
    one = Asked(Steering.recommended(directions), "safety", pictured=True, own_query=False)
    assert (one.reads_query, one.reads_input, one.gated) == (True, False, False)
    alone = Asked(one.steering, "safety", pictured=False, own_query=True)
    assert (alone.reads_query, alone.reads_input, alone.gated) == (False, True, False)
    both = Asked(replace(one.steering, reads="both"), "safety", pictured=True, own_query=False)
    assert (both.reads_query, both.reads_input) == (True, True)


def test_options_travel_by_digest(directions, tmp_path):
    made = engine_options({"safety": FILE}, unmarked=RowSettings("nothing"))
    options = EngineOptions.read(made)
    assert options.load()["safety"].hash == directions.hash
    directions.with_choice({}).save(tmp_path / "same.safetensors")
    wrong = {"safety": {"file": str(tmp_path / "same.safetensors"), "digest": "0" * 16}}
    with pytest.raises(EngineRefusedError, match="not 0000"):
        EngineOptions(wrong).load()
    with pytest.raises(RowSettingsError):
        EngineOptions.read({"vlmguard": {**made["vlmguard"], "unmarked": "off"}})
