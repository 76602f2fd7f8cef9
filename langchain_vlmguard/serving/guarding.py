"""The guard behind the routes: the guard's own flow, graph and node, driven for one request. Nothing is decided here."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from uuid import uuid4

from langchain_core.load import loads
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_vlmguard.errors import BusyError, GenerationTimeoutError, UpstreamError
from langchain_vlmguard.faces.graph import guard_graph
from langchain_vlmguard.guard.effects import arun
from langchain_vlmguard.guard.flow import guarded_answer
from langchain_vlmguard.guard.state import check_record, stage_of
from langchain_vlmguard.serving.asked import CALL, AskedModel, ModelCall
from langchain_vlmguard.serving.chat_request import OFFERED
from langchain_vlmguard.serving.http_errors import HttpError
from langchain_vlmguard.serving.judging import Judged, Judging
from langchain_vlmguard.serving.reviews import digest_of
from langchain_vlmguard.serving.tracing import NAME
from langchain_vlmguard.serving.wire import pictures_in_messages
from langchain_vlmguard.verdict.records import SafetyVerdict
from langchain_vlmguard.verdict.refusals import refusal_message, refusal_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.guard.parts import GuardParts
    from langchain_vlmguard.guard.turns import Answered
    from langchain_vlmguard.serving.reviews import Review, ReviewStore
    from langchain_vlmguard.verdict.draft import Draft
    from langchain_vlmguard.verdict.policy import GuardPolicy
    from langchain_vlmguard.verdict.records import Json


@dataclass(frozen=True)
class Asked:
    """A request as the guard gets it."""

    conversation: list[BaseMessage]
    settings: Json
    streamed: bool
    choices: int
    caller: str
    identity: Json
    """What makes it this request and no other."""


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    choices: list[Judged]
    pictures_seen: int
    pictures_forwarded: int

    @property
    def verdict(self) -> SafetyVerdict:
        """The verdict of the turn: of the first answer that was not let out, of the first one otherwise."""
        stopped = [one for one in self.choices if not one.is_released]
        return (stopped or self.choices)[0].verdict


class Guarding(Judging):
    """A guard around a model, under one policy. It is used on the guard's loop."""

    def __init__(self, guard: GuardParts, model: BaseChatModel, reviews: ReviewStore, retry_after: int) -> None:
        """Build the guard's graph and node.

        Raises:
            NoJudgeError: Nobody judges anything.
        """
        self._reviews, self._retry_after = reviews, retry_after
        self._asked = AskedModel(model)
        super().__init__(guard, self._asked)
        self._runs = InMemorySaver()
        self._graph = guard_graph(guard, self._asked).compile(checkpointer=self._runs)

    async def answer(self, asked: Asked) -> Outcome:
        """Guard a request and return what may be sent.

        Raises:
            HttpError: It waits for a person, it cannot be read, or something is not there that it needs.
        """
        call = ModelCall(asked.settings, asked.streamed)
        seen = pictures_in_messages(asked.conversation)
        with _around(call):
            judged = await (self._one(asked, call) if asked.choices == 1 else self._several(asked))
        for one in judged:
            self._check(one, call, asked.conversation)
        return Outcome(judged, seen, call.forwarded)

    async def _one(self, asked: Asked, call: ModelCall) -> list[Judged]:
        """Run the guard's flow; what waits for a person is written down as a run of its graph, and goes on from there."""
        digest = digest_of(asked.caller, self.guard.policy.hash, asked.identity)
        thread = uuid4().hex
        config: RunnableConfig = {"configurable": {"thread_id": thread}}
        review = await asyncio.to_thread(self._reviews.open_for, digest)
        if review is not None and review.state == "pending":
            raise _waits(review)
        try:
            if review is not None and await asyncio.to_thread(self._reviews.use, review, self._runs, thread):
                return await self._resumed(review, call, config)
            try:
                answered = await arun(guarded_answer(self.guard, asked.conversation, self._asked))
            except Exception as error:
                if call.error is None:
                    raise
                raise model_error(call.error, self._retry_after) from error
            draft = answered.joined()
            if draft.action != "review":
                return [self._told(_settled(answered, draft, self.guard.policy))]
            state = await self._stopped(asked, answered, draft, config)
            raise _waits(await self._hold(state, digest, asked.caller, call, thread))
        finally:
            self._runs.delete_thread(thread)

    def _told(self, judged: Judged) -> Judged:
        """Report a verdict that was made without the graph, which reports its own."""
        if self.guard.telemetry is not None:
            self.guard.telemetry.record([check_record(stage_of(judged.verdict), NAME, judged.verdict)])
        return judged

    async def _stopped(self, asked: Asked, answered: Answered, draft: Draft, config: RunnableConfig) -> Json:
        """Put the graph where the flow stopped, and let it stop there, too: a person's decision goes on from it."""
        held = None if answered.answer is None else answered.answer.message
        given = {"messages": asked.conversation, "draft": draft.to_state(), "verdict": {}, "held": held}
        await self._graph.aupdate_state(config, given, as_node="rewrite" if held is None else "answer")
        state: Json = await self._graph.ainvoke(None, config, durability="exit")
        return state

    async def _resumed(self, review: Review, call: ModelCall, config: RunnableConfig) -> list[Judged]:
        """Go on with a run that a person decided about; an answer that was approved is that very answer."""
        if review.answer is not None and review.is_approved:  # an edited prompt is asked anew
            call.replay = loads(review.answer, allowed_objects=[AIMessage])
        judged = None
        try:
            resume: Command[object] = Command(resume={"decisions": [review.decision]})
            state = await self._graph.ainvoke(resume, config, durability="exit")
            if call.error is None and not state.get("__interrupt__"):
                judged = _judged(state)
            if judged is not None and judged.verdict.failure is not None and review.verdict["failure"] is None:
                judged = None  # the guard failed after the decision, which is kept for the next try
        finally:
            if judged is None:
                await asyncio.shield(asyncio.to_thread(self._reviews.give_back, review))
        if judged is None:
            raise self._guard_failed() if call.error is None else model_error(call.error, self._retry_after)
        await asyncio.to_thread(self._reviews.forget_run, review)
        return [judged]

    async def _hold(self, state: Json, digest: str, caller: str, call: ModelCall, thread: str) -> Review:
        request = state["__interrupt__"][0].value
        about_answer = request["verdict"]["answer"] == "withheld"
        return await asyncio.to_thread(
            self._reviews.hold,
            digest,
            caller,
            self._runs,
            thread,
            verdict=request["verdict"],
            shown={"action_requests": request["action_requests"], "review_configs": request["review_configs"]},
            answer=call.said if about_answer else None,
        )

    async def _several(self, asked: Asked) -> list[Judged]:
        """Judge the turn once and each of several answers by itself. Nothing waits here: review is refusal."""
        state: Json = {"messages": asked.conversation}
        update = await self.node.ainvoke(state)
        verdict = SafetyVerdict.from_state(update["verdict"])
        if verdict.action not in ("allow", "rewrite"):
            refusal = cast("AIMessage", update["messages"][-1])
            return [Judged(refusal, verdict)] * asked.choices
        shown = await asyncio.to_thread(self.node.for_model, {**state, "verdict": update["verdict"]})
        try:
            answers = await self._asked.answers(shown)
        except Exception as error:
            raise model_error(error, self._retry_after) from error
        return [await self.judge_answer(asked.conversation, one, verdict) for one in answers]

    def _check(self, judged: Judged, call: ModelCall, conversation: list[BaseMessage]) -> None:
        """Raise where no answer was decided about: the model or a judge failed, or the request cannot be read.

        Raises:
            HttpError: It says which.
        """
        verdict = judged.verdict
        if judged.is_released:
            return
        if call.error is not None:
            raise model_error(call.error, self._retry_after)
        if verdict.failure is not None and verdict.reviewed is None:  # a person decided about an earlier failure
            raise self._guard_failed()
        unread = next((one for one in verdict.unjudged if one.is_unread and one.where.startswith("messages[")), None)
        if unread is not None and verdict.answer == "none":
            where = place_of(unread.where, conversation)
            msg = f"{where} cannot be read, so nothing of the request goes on: {unread.reason}"
            raise HttpError(400, "unreadable_content", msg, where)

    def _guard_failed(self) -> HttpError:
        msg = "the guard could not judge this, so nothing of it goes on: try again later"
        return HttpError(503, "guard_failed", msg, retry_after=self._retry_after)


def place_of(where: str, conversation: list[BaseMessage]) -> str:
    """Return a place as the caller counts messages, who knows nothing of the one that we put first."""
    shift = int(bool(conversation) and conversation[0].id == OFFERED)
    index, bracket, rest = where.removeprefix("messages[").partition("]")
    return f"messages[{max(0, int(index) - shift)}{bracket}{rest}" if index.isdecimal() else where


def model_error(error: Exception, retry_after: int) -> HttpError:
    """Return what a caller hears of an error of the model: a status that is true, and none of the model's words."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, BusyError):
        return HttpError(429, "queue_full", "the model has too much to do: try again later", retry_after=retry_after)
    if isinstance(error, GenerationTimeoutError):
        return HttpError(503, "deadline", "the answer was not ready in time: try again later", retry_after=retry_after)
    status = error.status if isinstance(error, UpstreamError) else None
    wait = min(60, max(1, error.retry_after or retry_after)) if isinstance(error, UpstreamError) else retry_after
    if status == 429:  # noqa: PLR2004
        return HttpError(429, "rate_limited", "the model behind this server takes no more for now", retry_after=wait)
    if status is not None and 400 <= status < 500 and status not in (401, 403, 404, 408):  # noqa: PLR2004
        msg = f"the model behind this server does not take this request (status {status})"
        return HttpError(400, "upstream_refused", msg)
    msg = "the model behind this server gave no whole answer: try again later"
    return HttpError(503, "upstream_failed", msg, retry_after=wait)


@contextmanager
def _around(call: ModelCall) -> Iterator[None]:
    token = CALL.set(call)
    try:
        yield
    finally:
        CALL.reset(token)


def _settled(answered: Answered, draft: Draft, policy: GuardPolicy) -> Judged:
    """Return the answer of a flow, or the refusal in its place."""
    if answered.answer is not None and draft.lets_answer:
        verdict = draft.copy_with(answer="released").to_verdict(policy)
        return Judged(answered.answer.message, verdict)
    verdict = draft.to_verdict(policy)
    return Judged(refusal_message(refusal_text(verdict, policy), verdict), verdict)


def _judged(state: Json) -> Judged:
    return Judged(cast("AIMessage", state["messages"][-1]), SafetyVerdict.from_state(state["verdict"]))


def _waits(review: Review) -> HttpError:
    msg = (
        f"a person has to look at this: ask for GET /v1/reviews/{review.id}, and send the same request again afterwards"
    )
    return HttpError(409, "review_required", msg, more={"vlmguard": {"action": "review", "review": review.id}})
