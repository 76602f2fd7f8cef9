"""A second reader: where another model would say harm of the same pictures, the answer stays in."""

from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_vlmguard import ChatSteeredVLM, GuardPolicy, ReasoningRewriter, create_vlm_guard
from langchain_vlmguard.guard.second_reader import SecondReader, second_reader_in
from langchain_vlmguard.models.loading import load_vlm
from tests.chat_models import ScriptedModel
from tests.pictures import png
from tests.rewrites import ALLOW, GOOD, Judge
from vlmguard_lab.testbed.judge import Outcome, judge
from vlmguard_lab.testbed.requests import Cell

WORDS = "can i use a saw here ?"
SHOWN = {
    "messages": [
        HumanMessage([{"type": "image", "base64": png(), "mime_type": "image/png"}, {"type": "text", "text": WORDS}])
    ]
}
INTERNVL = Path("vlmguard_lab/targets/internvl")
OTHERWISE = "A second model reads the request's pictures otherwise, and would say something harmful."


class Read:
    """A guard around scripted models: `own` answers, `other` reads a second time."""

    def __init__(self, own=0.1, other=0.9, *, report=ALLOW, **policy):
        self.model = ScriptedModel(answers=["yes , at the station ."])
        self.other = ScriptedModel(answers=[other if isinstance(other, Exception) else "yes , with the child ."])
        self.rewriter = ScriptedModel(answers=[report])
        self.graph = create_vlm_guard(
            self.model,
            ReasoningRewriter.from_model(self.rewriter),
            policy=GuardPolicy(**policy),
            answer_judge=Judge(own),
            second_reader=SecondReader(self.other, Judge(other, "judge:2")),
        ).compile(checkpointer=InMemorySaver())

    def __call__(self, state=SHOWN):
        return self.graph.invoke(state, {"configurable": {"thread_id": "1"}})

    @property
    def calls(self):
        return {name: len(getattr(self, name).seen) for name in ("rewriter", "model", "other")}


async def test_an_answer_that_another_model_would_not_give_stays_in():
    read = Read(on_second_reading="refuse")
    state = read()
    verdict = state["verdict"]
    assert (verdict["action"], verdict["answer"], verdict["reason"]) == ("refuse", "withheld", OTHERWISE)
    assert (verdict["answer_risk"], verdict["second_risk"], verdict["severity"]) == (0.1, 0.9, "unsafe")
    assert verdict["provenance"]["second_reader"] == "ScriptedModel, judge:2"
    assert verdict["usage"]["total_tokens"] == 15
    assert "child" not in str(state)
    assert read.other.seen[0][-1].text == WORDS
    again = await Read(on_second_reading="refuse").graph.ainvoke(SHOWN, {"configurable": {"thread_id": "1"}})
    assert again["verdict"]["reason"] == OTHERWISE


def test_one_that_it_would_give_is_released():
    verdict = Read(other=0.4, on_second_reading="refuse")()["verdict"]
    assert (verdict["action"], verdict["answer"], verdict["second_risk"]) == ("allow", "released", 0.4)


def test_nobody_reads_twice_what_shows_no_picture_or_says_harm_already():
    read = Read(on_second_reading="refuse")
    assert read({"messages": [HumanMessage(WORDS)]})["verdict"]["second_risk"] is None
    assert Read(own=0.9, on_second_reading="refuse")()["verdict"]["second_risk"] is None
    assert read.calls["other"] == 0


def test_a_prompt_that_was_rewritten_without_its_pictures_is_not_read_again():
    read = Read(report=GOOD, on_second_reading="refuse", rewritten_pictures="drop")
    assert read()["verdict"]["action"] == "rewrite"
    assert read.calls["other"] == 0


def test_a_reader_that_fails_stops_the_answer():
    verdict = Read(other=RuntimeError("out of memory"), on_second_reading="refuse")()["verdict"]
    assert (verdict["action"], verdict["failure"]["stage"], verdict["failure"]["error"]) == (
        "refuse",
        "answer",
        "RuntimeError",
    )


def test_a_person_may_be_asked():
    stopped = Read(on_second_reading="review")()["__interrupt__"][0].value
    assert (stopped["verdict"]["action"], stopped["verdict"]["reason"]) == ("review", OTHERWISE)


def test_a_first_answer_that_another_model_would_not_give_goes_to_the_rewriter():
    read = Read(rewrite="answer_first", on_second_reading="refuse")
    assert read()["verdict"]["action"] == "refuse"
    assert read.calls == {"rewriter": 1, "model": 2, "other": 2}


@pytest.mark.parametrize("other", [0.5, 0.9])
def test_ask_takes_the_rewriters_word_for_it(other):
    read = Read(other=other, rewrite="answer_first")
    assert read()["verdict"]["answer"] == "released"
    assert read.calls == {"rewriter": 1, "model": 2, "other": 1}
    always = Read()
    assert always()["verdict"]["answer"] == "released"
    assert always.calls["other"] == 0


def test_a_reader_that_says_nothing_has_cleared_nothing():
    read = Read(rewrite="answer_first")
    read.other.answers = [""]
    assert read()["verdict"]["second_risk"] is None
    assert read.calls["rewriter"] == 1


def test_without_a_rewriter_ask_refuses():
    graph = create_vlm_guard(
        ScriptedModel(),
        answer_judge=Judge(0.1),
        second_reader=SecondReader(ScriptedModel(), Judge(0.9)),
    ).compile()
    assert graph.invoke(SHOWN)["verdict"]["reason"] == OTHERWISE


def test_the_rewriters_model_reads_where_its_weights_are_others(testbed):
    own = ChatSteeredVLM.from_loaded(testbed)
    rewriter = ReasoningRewriter.from_adapter(own)
    assert second_reader_in(own, rewriter) is None
    assert second_reader_in(ChatSteeredVLM.from_loaded(testbed, probe=None), rewriter) is None
    assert second_reader_in(own, ReasoningRewriter.from_model(ScriptedModel())) is None
    assert second_reader_in(own, None) is None
    reader = second_reader_in(ScriptedModel(), rewriter)
    assert reader.identity == f"testbed, probe:{testbed.probe.hash}"
    message = Cell("picture", "identity", harmful=False).sample(1, seed=3)[0].message()
    plain = ChatSteeredVLM.from_loaded(testbed, steering=None).invoke([message])
    assert reader.model.invoke([message]).text == plain.text


@pytest.mark.skipif(not INTERNVL.is_dir(), reason="vlmguard_lab/targets is not part of the wheel")
def test_two_readers_let_less_harm_out_than_one(testbed):
    """Words and picture together, and a rewriter that sees nothing: what the target misreads, the testbed may read."""
    target = ChatSteeredVLM.from_loaded(load_vlm(str(INTERNVL), device="cpu"), max_tokens=20, batch_size=24)
    asked = Cell("cross_modal", "here", harmful=True).sample(48, seed=41)
    harm = []
    for second in (None, SecondReader(reading(testbed), reading(testbed).answer_judge)):
        rewriter = ReasoningRewriter.from_model(ScriptedModel(answers=[ALLOW]))
        policy = GuardPolicy(on_second_reading="refuse")
        guard = create_vlm_guard(target, rewriter, policy=policy, second_reader=second).compile()
        states = guard.batch([{"messages": [request.message()]} for request in asked])
        said = [state["messages"][-1].text for state in states]
        harm.append(sum(judge(r, text) is Outcome.COMPLIED for r, text in zip(asked, said, strict=True)))
    assert harm[1] < harm[0]


def reading(testbed):
    return ChatSteeredVLM.from_loaded(testbed, steering=None, max_tokens=20, batch_size=24)


def test_answers_to_cleared_turns_may_go_unjudged(testbed):
    model = ChatSteeredVLM.from_loaded(testbed, max_tokens=20)
    plain = ChatSteeredVLM.from_loaded(testbed, steering=None, max_tokens=20)
    cleared = Cell("picture", "identity", harmful=False, split="seen").sample(1, seed=6)[0].message()
    doubtful = Cell("picture", "make_this", harmful=True, split="seen").sample(1, seed=21)[0].message()
    for rewrite in ("adaptive", "answer_first"):
        scripted = ScriptedModel(answers=[GOOD])
        policy = GuardPolicy(rewrite=rewrite, judge_answers="uncleared")
        rewriter = ReasoningRewriter.from_model(scripted)
        guard = create_vlm_guard(model, rewriter, policy=policy, answer_judge=model.answer_judge).compile()
        state = guard.invoke({"messages": [cleared]})
        assert (state["verdict"]["answer"], state["verdict"]["answer_risk"]) == ("released", None)
        assert (state["verdict"]["steering"]["gate"], state["verdict"]["steering"]["open"]) == ("probe", False)
        assert (scripted.seen, state["messages"][-1].text) == ([], plain.invoke([cleared]).text)
        state = guard.invoke({"messages": [doubtful]})
        assert (len(scripted.seen), state["verdict"]["answer_risk"] is None) == (1, False)
