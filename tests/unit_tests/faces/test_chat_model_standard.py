"""LangChain's standard suites for chat models, on `GuardedChatModel` around the testbed VLM, with that model's flags."""

from functools import cache

import pytest

pytest.importorskip("langchain_tests", reason="needs langchain-tests")

from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_vlmguard import ChatSteeredVLM, GuardedChatModel
from tests.agent_models import WordJudge
from vlmguard_lab.testbed.checkpoint import load_testbed


@cache
def loaded():
    return load_testbed()


class Flags:
    """What the testbed can do: a world of its own, in which it calls no tool but `order`."""

    @property
    def chat_model_class(self):
        return GuardedChatModel

    @property
    def chat_model_params(self):
        return {"model": ChatSteeredVLM.from_loaded(loaded()), "rewriter": WordJudge()}

    @property
    def has_tool_calling(self):
        return False

    @property
    def has_structured_output(self):
        return False

    @property
    def supports_model_override(self):
        return False


class TestUnit(Flags, ChatModelUnitTests):
    pass


class TestIntegration(Flags, ChatModelIntegrationTests):
    pass


def test_the_suites_were_collected():
    collected = [name for suite in (TestUnit, TestIntegration) for name in dir(suite) if name.startswith("test_")]
    assert len(collected) >= 40
