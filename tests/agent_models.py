"""Agents' models and judges that say what they are told to."""

import json

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from langchain_vlmguard import Rewrite
from langchain_vlmguard.content.turn import turn_start

BOTH = pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
THREAD = {"configurable": {"thread_id": "1"}}


def asked(content):
    return {"messages": [HumanMessage(content)]}


def call(name, call_id="1", **args):
    return {"name": name, "args": args, "id": call_id, "type": "tool_call"}


def new_shop(says="ordered a {item}"):
    """Return a tool that orders, and the list of what it ordered."""
    ordered = []

    @tool
    def order(item: str) -> str:
        """Order an item."""
        ordered.append(item)
        return says.format(item=item)

    return order, ordered


def calling(*calls, text=""):
    return AIMessage(text, tool_calls=list(calls))


class AgentModel(BaseChatModel):
    """Answers with `answers` in turn (the last one for ever); streams letter by letter; takes tools."""

    answers: list = Field(default_factory=lambda: ["fine"])
    seen: list = Field(default_factory=list)

    @property
    def _llm_type(self):
        return "agent-model"

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _next(self, messages):
        self.seen.append(messages)
        answer = self.answers[min(len(self.seen), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = answer(messages)
        message = AIMessage(answer) if isinstance(answer, str) else answer
        return message.model_copy(
            update={"id": None, "usage_metadata": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}}
        )

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        message = self._next(messages)
        for letter in str(message.text):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=letter))
            if run_manager:
                run_manager.on_llm_new_token(letter, chunk=chunk)
            yield chunk
        calls = [
            {"name": c["name"], "args": json.dumps(c["args"]), "id": c["id"], "index": at, "type": "tool_call_chunk"}
            for at, c in enumerate(message.tool_calls)
        ]
        yield ChatGenerationChunk(
            message=AIMessageChunk(content="", tool_call_chunks=calls, response_metadata=message.response_metadata)
        )


class WordJudge(Runnable):
    """Judges the current turn by words: bomb is refused, knife is rewritten, maybe is reviewed, crash raises."""

    def __init__(self, **actions):
        self.actions = {"bomb": "refuse", "knife": "rewrite", "maybe": "review", "crash": "crash", **actions}
        self.seen = []

    def invoke(self, input, config=None, **kwargs):  # noqa: A002 - the interface's name
        self.seen.append(input)
        said = str([[m.content, getattr(m, "tool_calls", None)] for m in input[turn_start(input) :]]).lower()
        action = next((action for word, action in self.actions.items() if word in said), "allow")
        if action == "crash":
            msg = "the judge is ill"
            raise RuntimeError(msg)
        return Rewrite(
            threats=[]
            if action == "allow"
            else [{"channel": "textual", "hazard": "mlcommons:iwp", "rationale": "a weapon"}],
            intent="wants something",
            action=action,
            risk=0.0 if action == "allow" else 0.9,
            rewritten_prompt="how do i stay safe?" if action == "rewrite" else None,
        )


async def both(graph, given, config=None, *, use_async, **kwargs):
    """Run a graph, sync or async."""
    if use_async:
        return await graph.ainvoke(given, config, **kwargs)
    return graph.invoke(given, config, **kwargs)


def agent(answers, tools=(), judge=None, middleware=(), checkpointer=None, **options):
    """Return an agent with the guard listed last, its model and its judge."""
    from langchain_vlmguard import VLMGuardMiddleware

    model, judge = AgentModel(answers=list(answers)), judge or WordJudge()
    guard = VLMGuardMiddleware(judge, **options)
    return create_agent(model, list(tools), middleware=[*middleware, guard], checkpointer=checkpointer), model, judge
