import time

import pytest
from langchain_core.messages import HumanMessage

from langchain_vlmguard import UnreadableContentError, create_vlm_guard
from langchain_vlmguard.content.messages import read_for_model
from langchain_vlmguard.verdict.limits import ReadLimits
from tests.chat_models import ScriptedModel
from tests.hostile_messages import HOSTILE
from tests.rewrites import Judge

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def test_there_are_enough_of_them():
    assert len(HOSTILE) >= 200


@pytest.mark.parametrize(("message", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_it_is_refused_with_a_fitting_reason_and_reaches_no_model(message, reason):
    model = ScriptedModel()
    started = time.perf_counter()
    state = (
        create_vlm_guard(model, answer_judge=Judge(0.0))
        .compile()
        .invoke({"messages": [HumanMessage("look at this"), message]})
    )
    assert time.perf_counter() - started < 5
    assert (state["verdict"]["action"], model.seen) == ("refuse", [])
    unjudged = state["verdict"]["unjudged"]
    assert any(reason in part["reason"] for part in unjudged), unjudged
    assert all(part["where"].startswith("messages[1]") for part in unjudged)
    assert unjudged[0]["reason"] in state["messages"][-1].text


@pytest.mark.parametrize(("message", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_it_is_an_error_for_whoever_skips_the_guard(message, reason):
    with pytest.raises(UnreadableContentError, match=r"messages\[0\]"):
        read_for_model([message], ReadLimits())
