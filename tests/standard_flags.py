"""What the local chat model claims in LangChain's standard suites, unit and integration alike."""

from langchain_vlmguard import ChatSteeredVLM


class SteeredVLMFlags:
    """Mix-in ahead of a standard suite."""

    @property
    def chat_model_class(self):
        return ChatSteeredVLM

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

    @property
    def has_tool_choice(self):
        return True
