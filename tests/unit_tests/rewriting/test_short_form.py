"""The short form: what a small model is shown, how its answers are read, and that new prompts are judged, too."""

import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_vlmguard import ChatSteeredVLM, ReasoningRewriter
from langchain_vlmguard.errors import RewriteError
from langchain_vlmguard.rewriting.forms import form_of
from langchain_vlmguard.rewriting.short_form import EXAMPLES, ShortForm, schema_of
from tests.agent_models import BOTH
from tests.chat_models import ScriptedModel
from tests.pictures import READABLE

TURN = [HumanMessage("How do I open my neighbour's door without a key?")]
REASONS = "<threats>textual | mlcommons:prv | x</threats><intent>a</intent><legitimate></legitimate>"
NEW = "Explain how locksmiths help people who are locked out of their own home."


def said(action="allow", hazard="none", prompt="", **fields):
    whole = {
        "threat": "it asks to break in",
        "hazard": hazard,
        "intent": "to get in",
        "action": action,
        "prompt": prompt,
    }
    return json.dumps({**whole, **fields})


def rewriter(*answers, **options):
    model = ScriptedModel(answers=list(answers))
    return ReasoningRewriter.from_model(model, examples=True, **{"max_retries": 0, **options}), model


async def judged(made, turn=TURN, *, use_async=False):
    return await made.ainvoke(turn) if use_async else made.invoke(turn)


@BOTH
async def test_a_new_prompt_that_is_allowed_is_used(use_async):
    made, model = rewriter(said("rewrite", "privacy", NEW), said("allow"))
    found = await judged(made, use_async=use_async)
    assert (found.action, found.rewritten_prompt, found.threats[0].hazard) == ("rewrite", NEW, "mlcommons:prv")
    assert len(model.seen) == 2
    assert NEW in model.seen[1][-1].text
    assert TURN[0].text not in model.seen[1][-1].text


@BOTH
@pytest.mark.parametrize("second", ["rewrite", "refuse", "review"])
async def test_a_new_prompt_that_is_not_allowed_becomes_a_refusal(second, use_async):
    made, model = rewriter(said("rewrite", "privacy", NEW), said(second, "violent crimes", "Do it so."))
    found = await judged(made, use_async=use_async)
    assert (found.action, found.rewritten_prompt) == ("refuse", None)
    assert [threat.hazard for threat in found.threats] == ["mlcommons:prv", "mlcommons:vcr"]
    assert len(model.seen) == 2


def test_a_check_that_fails_lets_nothing_through():
    made, _ = rewriter(said("rewrite", "privacy", NEW), "no report")
    with pytest.raises(RewriteError):
        made.invoke(TURN)


def test_the_check_can_be_left_out_and_costs_nothing_where_nothing_was_rewritten():
    made, model = rewriter(said("rewrite", "privacy", NEW), check_prompt=False)
    assert made.invoke(TURN).rewritten_prompt == NEW
    allowing, other = rewriter(said("allow"))
    assert allowing.invoke(TURN).action == "allow"
    assert (len(model.seen), len(other.seen)) == (1, 1)


def test_the_long_form_can_be_checked_too():
    model = ScriptedModel(
        answers=[
            f"{REASONS}<action>rewrite</action><risk>0.8</risk><prompt>{NEW}</prompt>",
            f"{REASONS}<action>refuse</action><risk>1</risk><prompt></prompt>",
        ]
    )
    assert ReasoningRewriter.from_model(model, check_prompt=True).invoke(TURN).action == "refuse"


@pytest.mark.parametrize("prompt", ["I'm sorry, but I can't help with that.", "I cannot assist with this request."])
def test_a_prompt_that_refuses_is_a_refusal(prompt):
    made, _ = rewriter(said("rewrite", "privacy", prompt))
    assert made.invoke(TURN).action == "refuse"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (said("allow", "privacy"), "it allows what it calls privacy"),
        (said("rewrite", "privacy"), "needs a rewritten prompt"),
        (said("let it be"), "action"),
        ('{"hazard": "none", "action": "allow"}', "it does not say its threat, intent"),
        ('{"action": "allow", "action": "refuse"}', "names a field twice"),
        (f"{said()}\n{said('refuse', 'privacy')}", "more than one report"),
        ("It is harmless.", "not one JSON object"),
        (said("rewrite", "privacy", TURN[0].text), "the rewritten prompt is the original one"),
    ],
)
def test_what_decides_nothing_is_not_used(answer, problem):
    made, _ = rewriter(answer)
    with pytest.raises(RewriteError, match=problem):
        made.invoke(TURN)


@pytest.mark.parametrize("wrap", ["{}", "```json\n{}\n```", "Here it is:\n{}\nThat is all.", "<think>{{}}</think>{}"])
def test_words_around_an_answer_are_read_past(wrap):
    made, _ = rewriter(wrap.format(said("allow")))
    assert made.invoke(TURN).action == "allow"


def test_the_examples_stand_in_the_conversation_as_it_will_be():
    made, model = rewriter(said())
    made.invoke(TURN)
    system, *shown, asked = model.seen[0]
    assert system.type == "system"
    assert [one.type for one in shown] == ["human", "ai"] * len(EXAMPLES)
    mark = asked.text.split()[1]
    assert all(mark in one.text for one in shown if one.type == "human")
    for example, answer in zip(EXAMPLES, (one for one in shown if one.type == "ai"), strict=True):
        assert list(json.loads(answer.text)) == ["threat", "hazard", "intent", "action", "prompt"]
        assert ShortForm().parse(answer.text).action == example.action


def test_only_the_channels_of_the_turn_are_offered():
    pictured = [HumanMessage([READABLE["v1 image"], {"type": "text", "text": "How do I use this?"}])]
    called = [
        *TURN,
        AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}]),
        ToolMessage("a", tool_call_id="1"),
    ]
    made, model = rewriter(said("refuse", "privacy", channel="visual"))
    assert made.invoke(pictured).threats[0].channel == "visual"
    assert '"channel": "textual"' in model.seen[0][2].text
    for turn, channels in (
        (TURN, None),
        (pictured, ["textual", "visual", "cross_modal"]),
        (called, ["textual", "tool_result"]),
    ):
        asked = (
            ShortForm().bound(ChatSteeredVLM(model="testbed"), turn).kwargs["response_format"]["json_schema"]["schema"]
        )
        assert asked["properties"].get("channel", {}).get("enum") == channels


def test_the_schema_asks_for_the_reasons_first_and_for_all_of_them():
    schema = schema_of(("textual",))
    assert list(schema["properties"]) == schema["required"] == ["threat", "hazard", "intent", "action", "prompt"]


def test_a_local_model_is_asked_in_the_short_form_and_held_to_it():
    vlm = ChatSteeredVLM.from_pretrained("testbed", steering=None, max_tokens=600)
    made = ReasoningRewriter.from_model(vlm, max_retries=0)
    assert (made.form, made.check_prompt) == (ShortForm(), True)
    answer = made.form.bound(vlm, TURN).invoke(TURN)  # the testbed reads no more than a thousand tokens
    assert list(json.loads(answer.text)) == ["threat", "hazard", "intent", "action", "prompt"]


def test_what_is_written_down_is_read_again():
    form = form_of("short")
    pictured = said("refuse", "violent crimes", channel="visual")
    for answer in (said("rewrite", "privacy", NEW), pictured, said("allow", threat="none")):
        found = form.parse(answer)
        assert form.parse(form.write(None, found)) == found


def test_two_forms_cannot_be_asked_for():
    with pytest.raises(ValueError, match="leave one of them out"):
        ReasoningRewriter.from_model(ScriptedModel(), examples=True, structured=True)
