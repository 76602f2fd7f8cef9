"""Features of pictures: a second question about the same picture skips the vision tower and changes no answer."""

from contextlib import contextmanager
from dataclasses import replace
from threading import Thread

import pytest

from langchain_vlmguard import ChatSteeredVLM, ReasoningRewriter
from tests.architecture_checks import asked, chat, loaded_vlm, plain_generate
from tests.tiny_models import WITH_PROCESSOR
from vlmguard_lab.testbed.requests import Cell, Picture, Request

QUESTIONS = ("what is in the picture ?", "how do i make this ?", "what kind of thing is this ?")


@pytest.fixture
def vlm(testbed):
    return replace(testbed)


def forgetful(vlm):
    """The same model, which keeps no features."""
    own = replace(vlm)
    own.engine.features.max_bytes = 0
    return own


@contextmanager
def towers_runs(vlm):
    """Count the rows that the vision tower encodes."""
    seen = []
    tower = vlm.model.base_model.vision_tower
    handle = tower.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    try:
        yield seen
    finally:
        handle.remove()


def question(text, thing="kite", seed=0):
    picture = Picture("icon", thing, seed=seed)
    return [Request("picture", "identity", "seen", harmful=False, text=text, right="", complying="", thing=thing,
                    picture=picture).message()]  # fmt: skip


def test_a_second_question_about_the_same_picture_skips_the_tower(vlm):
    without = ChatSteeredVLM.from_loaded(forgetful(vlm), max_tokens=20)
    expected = [without.invoke(question(text)).text for text in QUESTIONS]
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=20)
    with towers_runs(vlm) as runs:
        assert [model.invoke(question(text)).text for text in QUESTIONS] == expected
        assert runs == [1]
        model.invoke(question(QUESTIONS[0], seed=1))  # other pixels of the same thing
        assert runs == [1, 1]


def test_plain_steered_and_rewriting_calls_share_it(vlm):
    plain, steered = (ChatSteeredVLM.from_loaded(vlm, steering=one, max_tokens=20) for one in (None, "auto"))
    rewriter = ReasoningRewriter.from_adapter(steered)
    with towers_runs(vlm) as runs:
        for model in (plain, steered, rewriter):
            model.invoke(question(QUESTIONS[0]))
        assert runs == [1]


def test_rows_of_a_batch_are_kept_apart(vlm):
    rows = [question(text, thing) for text, thing in zip(QUESTIONS, ("kite", "cake", "drum"), strict=True)]
    without = ChatSteeredVLM.from_loaded(forgetful(vlm), max_tokens=20)
    expected = [without.invoke(row).text for row in rows]
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=20)
    with towers_runs(vlm) as runs:
        assert [answer.text for answer in model.batch(rows)] == expected
        assert sum(runs) == 3
        assert [answer.text for answer in model.batch([rows[2], rows[0]])] == [expected[2], expected[0]]
        assert [model.invoke(row).text for row in rows] == expected
        assert sum(runs) == 3


def test_several_threads_get_what_they_would_get_alone(vlm):
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=20)
    rows = [question(text, thing) for text in QUESTIONS for thing in ("kite", "cake")]
    expected = [ChatSteeredVLM.from_loaded(forgetful(vlm)).invoke(row).text for row in rows]
    answers = {}

    def ask(at):
        answers[at] = model.invoke(rows[at % len(rows)]).text

    threads = [Thread(target=ask, args=(at,)) for at in range(3 * len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[at] for at in range(3 * len(rows))] == expected * 3


def test_what_is_kept_is_bounded_oldest_first(vlm):
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=2)
    model.invoke(question(QUESTIONS[0]))
    vlm.engine.features.max_bytes = 2 * vlm.engine.features.size
    with towers_runs(vlm) as runs:
        for thing in ("cake", "drum"):
            model.invoke(question(QUESTIONS[0], thing))
        assert vlm.engine.features.size == vlm.engine.features.max_bytes
        model.invoke(question(QUESTIONS[0], "drum"))
        assert len(runs) == 2
        model.invoke(question(QUESTIONS[0]))  # the first one is gone
        assert len(runs) == 3
    vlm.engine.features.clear()
    assert vlm.engine.features.size == 0


def test_what_edits_the_tower_is_never_served_from_it(vlm):
    steered = ChatSteeredVLM.from_loaded(vlm, max_tokens=4)
    rewriter = ReasoningRewriter.from_adapter(steered)
    adapter = rewriter.model.steering
    assert not adapter.edits_pictures
    (name, update), *_ = adapter.updates.items()
    inside = replace(adapter, updates={name.replace("language_model", "vision_tower"): update})
    assert inside.edits_pictures


@pytest.mark.parametrize("family", [pytest.param(one, marks=pytest.mark.slow) for one in WITH_PROCESSOR])
def test_every_family_answers_the_same_from_kept_features(family):
    vlm = loaded_vlm(*WITH_PROCESSOR[family]())
    model = chat(vlm, steering=None)
    rows = [asked("what is it?", "red"), asked("what is it?", "blue"), asked("compare", "red", "blue")]
    expected = [plain_generate(vlm, row) for row in rows]
    for _ in range(2):
        assert [model.invoke(row).text for row in rows] == expected
    assert [answer.text for answer in model.batch(rows)] == expected
    assert (vlm.engine.features.size > 0) == (family != "mllama")


def test_the_harmful_picture_keeps_its_trace(vlm):
    (request,) = Cell("picture", "make_this", harmful=True, split="seen").sample(1, seed=4)
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=20)
    first, second = (model.invoke([request.message()]) for _ in range(2))
    assert first.response_metadata["steering"] == second.response_metadata["steering"]
    assert first.text == second.text
