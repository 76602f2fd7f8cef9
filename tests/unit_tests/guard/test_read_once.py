"""A turn is read once and its policy resolved once, on every face and in every mode."""

import pytest

from langchain_vlmguard import GuardPolicy
from langchain_vlmguard.content import messages as content
from langchain_vlmguard.guard import parts
from tests.unit_tests.guard.test_every_face import FACES, MODES, REQUESTS, graph, models

SHOWN = "harmless picture"


@pytest.fixture
def counted(monkeypatch):
    """Count readings of the person's turn, and resolutions of the policy."""
    count = {"read": 0, "policy": 0}
    read_turn, policy_of_run = parts.read_turn, parts.policy_of_run

    def reads(messages, *given, **options):
        count["read"] += any(message.type == "human" and message.id != "subject" for message in messages)
        return read_turn(messages, *given, **options)

    def resolves(default):
        count["policy"] += 1
        return policy_of_run(default)

    monkeypatch.setattr(parts, "read_turn", reads)
    monkeypatch.setattr(content, "read_turn", reads)
    monkeypatch.setattr(parts, "policy_of_run", resolves)
    return count


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("asked", [SHOWN, "harm in the picture"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("face", [graph, *FACES], ids=lambda face: face.__name__)
async def test_a_turn_is_read_once_and_its_policy_resolved_once(face, mode, asked, use_async, counted):
    compiled = face(*models("steered"), GuardPolicy(rewrite=mode))
    given = {"messages": [REQUESTS[asked]]}
    state = await compiled.ainvoke(given) if use_async else compiled.invoke(given)
    assert state["verdict"]["action"] in ("allow", "rewrite", "refuse")
    assert counted == {"read": 1, "policy": 1}
