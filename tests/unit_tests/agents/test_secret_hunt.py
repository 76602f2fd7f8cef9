"""What was blocked is nowhere: a secret in it is looked for in state, checkpoints, streams and later requests.

`python -m tests.fuzz` goes on with the same hunt.
"""

from dataclasses import replace

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, StructuredOutputValidationError
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.types import Command

from langchain_vlmguard import VLMGuardMiddleware
from langchain_vlmguard.agents import held, model_call, tool_call
from langchain_vlmguard.guard import stopped
from tests.agent_models import BOTH, AgentModel, WordJudge, asked, both
from tests.secret_hunt import DOORS, PLACES, Case, Dice, Order, hunt
from tests.secret_search import is_in, spellings

EXAMPLES = 2_000
STRIPPED = {"beside an answer: a verdict of its own"}
"""What no judge sees and is gone all the same."""

LOST_WHEN_STREAMED = {
    "beside an answer: invalid_tool_calls",
    "beside an answer: invalid_tool_calls' error",
    "a block of an answer: refusal",
}
"""What the chunks or events of a streamed answer do not carry, so that nothing is left to block."""


def case_of(kind, place, seed=0, **fields):
    return replace(Case.drawn(Dice(seed)), kind=kind, place=place, **fields)


def test_what_was_blocked_is_found_nowhere():
    tried, blocked = set(), set()
    for seed in range(EXAMPLES):
        case = Case.drawn(Dice(seed))
        found, was_blocked = hunt(case)
        assert not found, f"{case} (seed {seed})"
        tried.add(case.name)
        if was_blocked:
            blocked.add(case.name)
        else:
            lost = case.name in LOST_WHEN_STREAMED and (case.streams or case.door == "v3")
            assert lost or case.name in STRIPPED, case
    assert tried == {f"{kind}: {place}" for kind, place in PLACES}
    assert tried - blocked == STRIPPED


PLANTED = {
    "metadata of a blocked answer": (
        model_call,
        "technical",
        lambda message: message.response_metadata,
        ("with a blocked answer", "log-probabilities"),
    ),
    "a blocked call's block": (held, "_stays", lambda *_: True, ("a call", "function_call")),
    "a Command's other keys": (
        tool_call,
        "without_beside",
        lambda part: part,
        ("a Command", "a key beside its message"),
    ),
    "a stopped turn in the history": (
        stopped,
        "bare",
        lambda message, words: message.model_copy(update={"content": words}),
        ("a request", "additional_kwargs"),
    ),
    "a blocked result's artifact": (
        tool_call._ToolCall,
        "_error",
        lambda self, draft, stage, message_id=None: ToolMessage("no", tool_call_id="call_1", artifact=PLANT),
        ("with a blocked result", "artifact"),
    ),
}
PLANT = {}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("leak", PLANTED)
def test_the_hunt_finds_a_planted_leak(leak, door, monkeypatch):
    module, name, leaking, place = PLANTED[leak]
    case = case_of(*place, door=door, goes_on=True)
    assert hunt(case)[0] == []
    PLANT["says"] = case.secret
    monkeypatch.setattr(module, name, leaking)
    assert "the model's requests" in hunt(case)[0] or "the state" in hunt(case)[0]


@pytest.mark.parametrize("shift", range(3))
def test_the_search_finds_a_secret_in_any_dress(shift):
    import base64
    import json

    secret = "qzabcdefghijklmnop"
    dressed = [
        secret,
        "x" * shift + secret,
        repr({"a": [secret]}),
        json.dumps(json.dumps({"a": secret})),
        "".join(f"\\u{ord(one):04x}" for one in secret),
        base64.b64encode(b"x" * shift + secret.encode()).decode(),
        base64.b64encode(b"xyz" * shift + secret.encode() + b"more").decode(),
        secret.encode("utf-16"),
        secret.encode().hex(),
        [{"token": secret[at : at + 2], "logprob": 0.5} for at in range(0, len(secret), 2)],
        [{"bytes": list(secret[at : at + 3].encode()), "token": "x"} for at in range(0, len(secret), 3)],
        AIMessage("", response_metadata={"a": {"b": [*secret]}}),
        Command(update={"messages": [ToolMessage("x", tool_call_id="1", artifact={"a": secret})]}),
        {secret: 1},
    ]
    assert [one for one in dressed if not is_in(secret, one)] == []
    assert not is_in(secret, ["nothing", secret[:9], {"a": 1}])
    assert all(len(one) >= 8 for one in spellings(secret))


@BOTH
async def test_an_answer_that_does_not_fit_the_schema_is_judged_before_its_error_is_raised(use_async):
    def agent(said):
        guard = VLMGuardMiddleware(WordJudge())
        return create_agent(AgentModel(answers=[said]), middleware=[guard], response_format=ProviderStrategy(Order))

    with pytest.raises(StructuredOutputValidationError, match="kite"):
        await both(agent('{"thing": "kite"}'), asked("hello"), use_async=use_async)
    state = await both(agent('{"thing": "bomb"}'), asked("hello"), use_async=use_async)
    assert state["verdict"]["action"] == "refuse"
    assert "bomb" not in str(state)
