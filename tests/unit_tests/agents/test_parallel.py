import asyncio
import threading
import time

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from langchain_vlmguard import VLMGuardMiddleware
from tests.agent_models import BOTH, AgentModel, WordJudge, both


class SlowJudge(WordJudge):
    """Judges people's turns only after the model has started."""

    def __init__(self, started):
        super().__init__()
        self.started = started
        self.waited = []

    def invoke(self, messages, config=None, **kwargs):
        if len(messages) == 1:
            self.waited.append(self.started.wait(1))
        return super().invoke(messages, config)


class SlowModel(AgentModel):
    """Says when it has taken its answer from the list, and whether it was cancelled."""

    started: threading.Event
    cancelled: list = Field(default_factory=list)
    seconds: float = 0.0

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        result = super()._generate(messages, stop, run_manager, **kwargs)
        self.started.set()
        time.sleep(self.seconds)
        return result

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        result = ChatResult(generations=[ChatGeneration(message=self._next(messages))])
        await self._think()
        return result

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        chunks = list(super()._stream(messages, stop, run_manager, **kwargs))
        self.started.set()
        time.sleep(self.seconds)
        yield from chunks

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        chunks = list(super()._stream(messages, stop, None, **kwargs))
        await self._think()
        for chunk in chunks:
            yield chunk

    async def _think(self):
        self.started.set()
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled.append(True)
            raise


@BOTH
@pytest.mark.parametrize(("text", "answer", "calls"), [("a kite", "unsaid", 1), ("a knife", "said", 2)])
async def test_the_model_runs_beside_the_check_and_is_asked_again_after_a_rewriting(text, answer, calls, use_async):
    started = threading.Event()
    model = SlowModel(started=started, answers=["unsaid", "said"])
    judge = SlowJudge(started)
    graph = create_agent(model, middleware=[VLMGuardMiddleware(judge, parallel=True)])
    state = await both(graph, {"messages": [HumanMessage(text)]}, use_async=use_async)
    assert judge.waited == [True]
    assert (state["messages"][-1].text, len(model.seen)) == (answer, calls)


@BOTH
async def test_a_blocked_early_answer_is_seen_nowhere_and_not_waited_for(use_async):
    started = threading.Event()
    model = SlowModel(started=started, answers=["early words"], seconds=0.6)
    graph = create_agent(model, middleware=[VLMGuardMiddleware(SlowJudge(started), parallel=True)])
    given = {"messages": [HumanMessage("a bomb")]}
    before = time.perf_counter()
    if use_async:
        seen = [part async for part in graph.astream(given, stream_mode=["values", "messages", "updates", "custom"])]
        assert model.cancelled == [True]
    else:
        seen = list(graph.stream(given, stream_mode=["values", "messages", "updates", "custom"]))
    assert time.perf_counter() - before < 0.6
    assert started.is_set()
    assert "early words" not in str(seen)
    assert any("can't help" in str(part) for part in seen)


@BOTH
async def test_an_early_failure_of_the_model_is_raised_only_when_the_turn_passes(use_async):
    started = threading.Event()
    for text, raises in (("a kite", True), ("a bomb", False)):
        model = SlowModel(started=started, answers=[RuntimeError("broken model")])
        graph = create_agent(model, middleware=[VLMGuardMiddleware(SlowJudge(started), parallel=True)])
        given = {"messages": [HumanMessage(text)]}
        if raises:
            with pytest.raises(RuntimeError, match="broken model"):
                await both(graph, given, use_async=use_async)
        else:
            assert isinstance((await both(graph, given, use_async=use_async))["messages"][-1], AIMessage)
