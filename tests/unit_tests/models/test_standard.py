"""LangChain's standard unit suite."""

from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_vlmguard import ChatSteeredVLM


class TestChatSteeredVLM(ChatModelUnitTests):
    @property
    def chat_model_class(self):
        return ChatSteeredVLM

    @property
    def chat_model_params(self):
        return {"model": "testbed", "image_hosts": ["img.example.com"]}

    @property
    def supports_image_inputs(self):
        return True

    @property
    def supports_image_urls(self):
        return True

    @property
    def supports_image_tool_message(self):
        return True

    @property
    def supports_json_mode(self):
        return True
