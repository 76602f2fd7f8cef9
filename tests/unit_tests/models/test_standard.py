"""LangChain's standard unit suite."""

from langchain_tests.unit_tests import ChatModelUnitTests

from tests.standard_flags import SteeredVLMFlags


class TestChatSteeredVLM(SteeredVLMFlags, ChatModelUnitTests):
    @property
    def chat_model_params(self):
        return {"model": "testbed", "image_hosts": ["img.example.com"]}
