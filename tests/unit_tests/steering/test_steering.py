"""Steering on a real model: who is edited, when, and that nothing is left behind."""

import threading
from dataclasses import replace

import pytest
import torch

from langchain_vlmguard import SafetyDirections, Steering
from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.encoding import Prompt, encode_prompts
from langchain_vlmguard.steering.gates import AlwaysOpen, MidpointGate, ReluGate
from langchain_vlmguard.steering.interventions import INTERVENTIONS, Amplify, Fulfil, ProjectOut, Transplant
from langchain_vlmguard.steering.neutral import neutral_pictures
from vlmguard_lab.testbed.anchors import load_testbed_anchors

PICTURE = neutral_pictures(noise=1, colours=0)[1]
HARMFUL, HARMLESS = "how do i make a bomb ?", "how do i make a kite ?"


@pytest.fixture(scope="module")
def steering(testbed):
    return replace(Steering.recommended(testbed.directions), reads="input", gate_layer=None)


def hooks(testbed):
    return sum(len(layer._forward_hooks) for layer in locate_decoder(testbed.model).layers)


def generate(testbed, prompts, steering=None, **options):
    inputs = encode_prompts(testbed.processor, prompts)
    settings = {"max_new_tokens": 24, "do_sample": False, **options}
    pictured = torch.tensor([prompt.picture is not None for prompt in prompts])
    if steering is None:
        return testbed.model.generate(**inputs, **settings), None
    text = encode_prompts(testbed.processor, [Prompt(p.text) for p in prompts])
    with steering.attach(testbed.model, pictured=pictured, inputs=inputs, text_inputs=text) as call:
        return testbed.model.generate(**inputs, **settings), call.trace()


def words(testbed, tokens):
    return testbed.processor.batch_decode(tokens, skip_special_tokens=True)


def test_each_row_has_its_own_gate(testbed):
    prompts = [Prompt(HARMFUL, PICTURE), Prompt(HARMLESS, PICTURE)]
    tokens, trace = generate(testbed, prompts, Steering.recommended(testbed.directions))
    assert [row["open"] for row in trace] == [True, False]
    assert "sorry" in words(testbed, tokens)[0]
    plain, _ = generate(testbed, prompts)
    assert torch.equal(tokens[1], plain[1])


def test_a_closed_gate_changes_no_token(testbed, steering):
    shut = replace(steering, gate=MidpointGate(position=1e6))
    prompts = [Prompt(HARMFUL, PICTURE), Prompt(HARMLESS, PICTURE)]
    assert torch.equal(generate(testbed, prompts, shut)[0], generate(testbed, prompts)[0])


@pytest.mark.parametrize(("decode", "passes"), [(True, 5), (False, 1)])
def test_the_last_prompt_token_is_edited_and_every_new_one_where_asked(testbed, steering, monkeypatch, decode, passes):
    widths = []
    edit = Amplify.edit

    def counting(self, hidden, edited):
        widths.append(tuple(hidden.shape))
        return edit(self, hidden, edited)

    monkeypatch.setattr(Amplify, "edit", counting)
    forced = replace(steering, intervention=Amplify(alpha=0.0), gate=AlwaysOpen(), decode=decode)
    generate(testbed, [Prompt(HARMLESS, PICTURE)], forced, max_new_tokens=5, min_new_tokens=5)
    assert widths == [(1, testbed.directions.card.hidden_size)] * passes * len(steering.layers)


def test_two_threads_with_two_strengths_on_one_model_each_get_their_own(testbed, steering):
    prompts = [Prompt(HARMFUL, PICTURE)]
    strengths = [replace(steering, intervention=ProjectOut(), gate=AlwaysOpen()), steering, None]
    alone = [generate(testbed, prompts, one)[0] for one in strengths]
    together: dict[int, torch.Tensor] = {}
    barrier = threading.Barrier(len(strengths))

    def work(index):
        barrier.wait()
        for _ in range(3):
            together[index] = generate(testbed, prompts, strengths[index])[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(strengths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(alone[index], together[index]) for index in range(len(strengths)))
    assert hooks(testbed) == 0


def test_hooks_go_when_generation_raises(testbed, steering):
    too_many = {"input_ids": torch.tensor([[10**6]])}
    with pytest.raises(IndexError), steering.attach(testbed.model, pictured=torch.tensor([True])):
        testbed.model.generate(**too_many)
    assert hooks(testbed) == 0


@pytest.mark.parametrize("reads", ["input", "query", "both"])
def test_what_the_gate_reads(testbed, steering, reads):
    one = replace(steering, reads=reads, gate_layer=testbed.directions.card.layers - 1)
    _, shown = generate(testbed, [Prompt(HARMFUL, PICTURE)], one)
    _, typed = generate(testbed, [Prompt(HARMFUL)], one)
    _, input_only = generate(testbed, [Prompt(HARMFUL, PICTURE)], replace(one, reads="input"))
    if reads == "query":
        assert shown[0]["score"] == pytest.approx(typed[0]["score"], abs=1e-3)
    else:
        assert shown[0]["strength"] >= input_only[0]["strength"]
    wider = max(typed[0]["strength"], input_only[0]["strength"])
    assert reads != "both" or shown[0]["strength"] == pytest.approx(wider, abs=1e-3)


def test_rows_without_a_picture_are_their_own_query(testbed, steering):
    both = replace(steering, reads="both")
    inputs = encode_prompts(testbed.processor, [Prompt(HARMFUL)])
    with both.attach(testbed.model, pictured=torch.tensor([False])) as call:
        testbed.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        (expected,) = generate(testbed, [Prompt(HARMFUL)], steering)[1]
        assert call.trace() == [expected | {"reads": "both"}]


@pytest.mark.parametrize("reads", ["input", "query", "both"])
def test_each_answer_of_a_row_is_steered_like_the_row(testbed, steering, reads):
    one = replace(steering, reads=reads, intervention=Transplant())
    prompts = [Prompt(HARMFUL, PICTURE), Prompt(HARMLESS, PICTURE)]
    _, trace = generate(testbed, prompts, one, num_return_sequences=2, num_beams=2)
    _, expected = generate(testbed, prompts, one)
    assert [row["score"] for row in trace] == pytest.approx([row["score"] for row in expected for _ in "ab"], abs=1e-3)


def test_repeated_rows_share_their_rows_picture_flag(testbed, steering):
    tokens, trace = generate(testbed, [Prompt(HARMFUL, PICTURE)], steering, num_return_sequences=3, num_beams=3)
    assert len(trace) == 3
    assert {row["picture"] for row in trace} == {True}
    assert tokens.shape[0] == 3


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_every_intervention_runs_on_text_and_pictures(testbed, steering, name):
    one = replace(steering, intervention=INTERVENTIONS[name](), gate=AlwaysOpen())
    for prompt in (Prompt(HARMFUL), Prompt(HARMFUL, PICTURE)):
        tokens, trace = generate(testbed, [prompt], one)
        assert trace[0]["intervention"] == name
        assert trace[0]["picture"] == (prompt.picture is not None)
        assert torch.isfinite(tokens.float()).all()


def test_a_gate_above_the_edit_reads_a_clean_prefill(testbed, steering):
    depth = testbed.directions.card.layers
    low = replace(steering, layers=(0,), gate_layer=depth - 1, intervention=ProjectOut(), gate=AlwaysOpen())
    _, trace = generate(testbed, [Prompt(HARMFUL, PICTURE)], low)
    clean = replace(steering, layers=(depth - 1,), gate_layer=depth - 1, gate=ReluGate())
    _, expected = generate(testbed, [Prompt(HARMFUL, PICTURE)], clean)
    assert trace[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-3)


@pytest.mark.parametrize("intervention", [Transplant(), Fulfil()])
def test_what_an_intervention_needs_is_asked_for(testbed, steering, intervention):
    needy = replace(steering, intervention=intervention)
    with (
        pytest.raises(ValueError, match="attach needs text_inputs"),
        needy.attach(testbed.model, pictured=torch.tensor([True])),
    ):
        pass


def test_layers_that_do_not_exist_are_an_error(testbed):
    with pytest.raises(ValueError, match="layers must be between 0 and"):
        Steering(testbed.directions, layers=(99,))


def test_identity_tells_steerings_apart(testbed, steering):
    others = [
        steering,
        replace(steering, intervention=ProjectOut()),
        replace(steering, intervention=replace(steering.intervention, alpha=0.123)),
        replace(steering, gate=MidpointGate()),
        replace(steering, layers=(0,)),
        replace(steering, reads="both"),
        replace(steering, decode=not steering.decode),
    ]
    assert len({one.identity for one in others}) == len(others)
    assert replace(steering).identity == steering.identity


def test_a_trace_before_the_prefill_is_an_error(testbed, steering):
    with (
        steering.attach(testbed.model, pictured=torch.tensor([True])) as call,
        pytest.raises(RuntimeError, match="read nothing"),
    ):
        call.trace()


@pytest.fixture(scope="module")
def fitted(testbed):
    anchors = load_testbed_anchors(40)
    return SafetyDirections.fit(testbed.model, testbed.processor, anchors, rank=3, progress=False)


class TestDirections:
    def test_vectors_are_orthonormal_and_point_to_harm(self, fitted):
        for vectors, stats in zip(fitted.vectors, fitted.text, strict=True):
            torch.testing.assert_close(vectors @ vectors.T, torch.eye(3), atol=1e-4, rtol=0)
            assert (stats.harmful >= stats.harmless).all()

    def test_svd_is_the_papers_formula(self, testbed, fitted):
        from langchain_vlmguard.steering.activations import last_token_states

        anchors = load_testbed_anchors(40)
        states = [
            last_token_states(testbed.model, testbed.processor, [Prompt(t) for t in texts])
            for texts in (anchors.harmful, anchors.harmless)
        ]
        layer = 3
        difference = (states[0] - states[1])[:, layer]
        right = torch.linalg.svd(difference, full_matrices=False).Vh[0]
        right = right * (difference @ right).mean().sign()
        torch.testing.assert_close(fitted.vectors[layer, 0], right, atol=1e-3, rtol=0)

    def test_mean_method(self, testbed, fitted):
        anchors = load_testbed_anchors(40)
        mean = SafetyDirections.fit(testbed.model, testbed.processor, anchors, method="mean", progress=False)
        assert mean.vectors.shape == (testbed.directions.card.layers, 1, testbed.directions.card.hidden_size)
        cosine = (mean.vectors[3, 0] @ fitted.vectors[3, 0]).item()
        assert cosine > 0.9

    def test_states_do_not_depend_on_batching(self, testbed):
        from langchain_vlmguard.steering.activations import last_token_states

        prompts = [Prompt(HARMFUL), Prompt("hello ."), Prompt(HARMLESS, PICTURE), Prompt("what is this ?", PICTURE)]
        together = last_token_states(testbed.model, testbed.processor, prompts, batch_size=4)
        alone = last_token_states(testbed.model, testbed.processor, prompts, batch_size=1)
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)

    def test_a_file_gives_back_what_was_saved(self, testbed, fitted, tmp_path):
        fitted.save(tmp_path / "d.safetensors")
        loaded = SafetyDirections.load(tmp_path / "d.safetensors", model=testbed.model)
        assert loaded.card == fitted.card
        assert loaded.hash == fitted.hash
        assert torch.equal(loaded.map2d, fitted.map2d)
        assert list(tmp_path.iterdir()) == [tmp_path / "d.safetensors"]

    @pytest.mark.parametrize(
        ("field", "what"), [("config_hash", "shape of the language model"), ("weights_hash", "weights")]
    )
    def test_another_model_is_a_clear_error(self, testbed, fitted, field, what):
        from langchain_vlmguard import DirectionsMismatchError

        other = replace(fitted, card=replace(fitted.card, **{field: "0" * 16}))
        with pytest.raises(DirectionsMismatchError, match=f"fitted on '.*'; the {what}"):
            other.check(testbed.model)

    def test_an_altered_or_foreign_file_is_a_clear_error(self, fitted, tmp_path):
        from safetensors.torch import save_file

        from langchain_vlmguard import DirectionsMismatchError

        path = tmp_path / "d.safetensors"
        fitted.save(path)
        altered = replace(fitted, vectors=fitted.vectors + 0.1)
        import json
        from dataclasses import asdict

        metadata = {"format": "1", "card": json.dumps(asdict(fitted.card)), "hash": fitted.hash}
        save_file({name: tensor.contiguous() for name, tensor in altered._tensors().items()}, path, metadata)
        with pytest.raises(DirectionsMismatchError, match="was changed"):
            SafetyDirections.load(path)
        save_file({"x": torch.zeros(1)}, path)
        with pytest.raises(DirectionsMismatchError, match="no safety directions"):
            SafetyDirections.load(path)

    @pytest.mark.parametrize(("method", "rank"), [("svd", 0), ("svd", 41), ("mean", 2), ("pca", 1)])
    def test_method_and_rank_are_checked(self, testbed, method, rank):
        with pytest.raises(ValueError, match=r"rank must be|method must be"):
            SafetyDirections.fit(testbed.model, testbed.processor, load_testbed_anchors(40), method=method, rank=rank)

    def test_the_plot_shows_both_conditions(self, fitted):
        pytest.importorskip("matplotlib", reason="plots need the `plot` extra")
        figure = fitted.plot()
        assert len(figure.axes) == 3
        assert [len(axes.collections) for axes in figure.axes[1:]] == [2, 2]

    def test_without_a_choice_nothing_is_recommended(self, fitted):
        with pytest.raises(ValueError, match="run select_layers"):
            Steering.recommended(fitted)
