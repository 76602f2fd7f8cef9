"""A chat model that stands for any chat model: it says what it is told to and records what it saw."""

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field


class ScriptedModel(BaseChatModel):
    """Answers with `answers` in turn; an exception among them is raised. Streams word by word."""

    answers: list = Field(default_factory=lambda: ["fine"])
    seen: list = Field(default_factory=list)
    metadata_of_answers: dict = Field(default_factory=dict)

    @property
    def _llm_type(self):
        return "scripted"

    def _next(self, messages):
        self.seen.append(messages)
        answer = self.answers[(len(self.seen) - 1) % len(self.answers)]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        metadata = {"model_name": "scripted", **self.metadata_of_answers}
        message = AIMessage(self._next(messages), usage_metadata=usage, response_metadata=metadata)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        for word in self._next(messages).split(" "):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word + " "))
            if run_manager:
                run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk


class CallingModel(ScriptedModel):
    """The same, with tools: an answer may be a whole message. It keeps what each call was given besides messages."""

    given: list = Field(default_factory=list)

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        return self.bind(tools=[convert_to_openai_tool(one) for one in tools], tool_choice=tool_choice, **kwargs)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.given.append(kwargs | ({"stop": stop} if stop else {}))
        answer = self._next(messages)
        message = answer.model_copy() if isinstance(answer, AIMessage) else AIMessage(answer)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        message = self._generate(messages, stop, run_manager, **kwargs).generations[0].message
        yield ChatGenerationChunk(message=AIMessageChunk(**message.model_dump(exclude={"type"})))
