"""What waits for a person: in a database, so that it outlives the process and every connection.

A review is bound to the digest of the very request; the answer that waits, if there is one, is kept with it. The first decision
counts. An approval lets that request pass once.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast
from uuid import uuid4

from langchain_core.load import dumpd

from langchain_vlmguard.serving.http_errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import AIMessage
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from langchain_vlmguard.guard.reviews import Edits
    from langchain_vlmguard.serving.review_databases import ReviewDatabase
    from langchain_vlmguard.verdict.records import Json

State = Literal["pending", "decided", "used"]
_Row = tuple[str, str, State, str | None, str, str, str | None, float]


@dataclass(frozen=True)
class Review:
    """Something that waits, or was decided."""

    id: str
    caller: str
    state: State
    decision: Json | None
    verdict: Json
    shown: Json
    """What a reviewer sees: the form of LangChain's human-in-the-loop requests."""

    answer: str | None
    """The answer that waits, as JSON."""

    created: float

    @property
    def is_approved(self) -> bool:
        """Whether a person let it pass as it was."""
        return self.decision is not None and self.decision["type"] == "approve"

    @property
    def edits(self) -> Edits | None:
        """What an edit replaces, `None` if only yes or no makes sense."""
        asked = self.shown["review_configs"][0]
        if "edit" not in asked["allowed_decisions"]:
            return None
        return "prompt" if asked["action_name"] == "answer_request" else "text"

    def for_caller(self) -> Json:
        """Return what whoever asked may know: nothing of what waits."""
        decided = None if self.decision is None else self.decision["type"]
        return {"id": self.id, "object": "vlmguard.review", "state": self.state, "decision": decided}

    def for_reviewer(self) -> Json:
        """Return everything."""
        answer = None if self.answer is None else _text_of(self.answer)
        shown = {"request": self.shown, "answer": answer, "verdict": self.verdict}
        return {**self.for_caller(), "caller": self.caller, "created": int(self.created), **shown}


def digest_of(*parts: object) -> str:
    """Return the digest of what a review is bound to."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class ReviewStore:
    """Reviews and the runs that wait for them, in one database. Everything here may block: call it in a thread."""

    def __init__(self, database: ReviewDatabase, keep_hours: float) -> None:
        """Take an open database; what nobody decided about for too long is deleted."""
        self._db, self._saver = database, database.saver
        self._keep = keep_hours * 3600
        self._forget()

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def hold(
        self,
        digest: str,
        caller: str,
        run: BaseCheckpointSaver[str],
        thread: str,
        *,
        verdict: Json,
        shown: Json,
        answer: AIMessage | None,
    ) -> Review:
        """Write down what waits, before anybody hears of it; the review that waits for the same already, if there is one."""
        self._forget()
        kept = None if answer is None else json.dumps(dumpd(answer))
        number = f"review_{uuid4().hex}"
        _copy(run, thread, self._saver, number)
        sql = "insert into reviews values (?, ?, ?, 'pending', null, ?, ?, ?, ?, null) on conflict do nothing"
        row = (number, digest, caller, json.dumps(verdict), json.dumps(shown, default=str), kept, time.time())
        if not self._db.change(sql, row):
            self._saver.delete_thread(number)
        found = self.open_for(digest)
        if found is None:  # decided and used in the meantime
            raise HttpError(409, "review_decided", "this request was decided about just now: send it again")
        return found

    def open_for(self, digest: str) -> Review | None:
        """Return the review of a request that waits, or that was decided about and not used."""
        return self._one("digest = ? and state <> 'used'", (digest,))

    def get(self, number: str) -> Review | None:
        """Return a review by its id."""
        return self._one("id = ?", (number,))

    def decide(self, number: str, decision: Json, by: str) -> Review:
        """Write a decision down; the first one counts.

        Raises:
            HttpError: There is no such review, or it was decided before.
        """
        sql = "update reviews set state = 'decided', decision = ?, decided_by = ? where id = ? and state = 'pending'"
        done = self._db.change(sql, (json.dumps(decision), by, number))
        found = self.get(number)
        if found is None:
            raise not_there()
        if not done:
            raise HttpError(409, "review_decided", "this review was decided before: the first decision counts")
        return found

    def use(self, review: Review, run: BaseCheckpointSaver[str], thread: str) -> bool:
        """Take a decided review for the one request that it is for, and give its run back; whether nobody did before."""
        done = self._db.change("update reviews set state = 'used' where id = ? and state = 'decided'", (review.id,))
        if done:
            _copy(self._saver, review.id, run, thread)
        return done == 1

    def give_back(self, review: Review) -> None:
        """Undo `use`: the request was not answered."""
        open_one = "select 1 from reviews as one where one.digest = reviews.digest and one.state <> 'used'"
        self._db.change(f"update reviews set state = 'decided' where id = ? and not exists ({open_one})", (review.id,))  # noqa: S608

    def forget_run(self, review: Review) -> None:
        """Delete the run of a review that is over; that it was decided stays known."""
        self._saver.delete_thread(review.id)

    def _one(self, where: str, given: Sequence[str]) -> Review | None:
        sql = f"select id, caller, state, decision, verdict, shown, answer, created from reviews where {where}"  # noqa: S608
        rows = self._db.rows(sql, given)
        if not rows:
            return None
        number, caller, state, decision, verdict, shown, answer, created = cast("_Row", rows[0])
        decided = None if decision is None else json.loads(decision)
        return Review(number, caller, state, decided, json.loads(verdict), json.loads(shown), answer, created)

    def _forget(self) -> None:
        old = (time.time() - self._keep,)
        gone = [str(row[0]) for row in self._db.rows("select id from reviews where created < ?", old)]
        self._db.change("delete from reviews where created < ?", old)
        for number in gone:
            self._saver.delete_thread(number)


def not_there() -> HttpError:
    """Return what is answered about a review that there is not."""
    return HttpError(404, "not_found", "there is no such review")


def _text_of(answer: str) -> str:
    """Return the words of an answer that waits, its calls among them, for people."""
    kept = json.loads(answer)["kwargs"]
    return json.dumps({key: kept[key] for key in ("content", "tool_calls", "additional_kwargs") if kept.get(key)})


def _copy(source: BaseCheckpointSaver[str], thread: str, target: BaseCheckpointSaver[str], other: str) -> None:
    """Copy the last checkpoint of a thread, and what waits to be written with it."""
    found = source.get_tuple({"configurable": {"thread_id": thread, "checkpoint_ns": ""}})
    if found is None:
        msg = "a run that waits has no checkpoint"
        raise RuntimeError(msg)
    config: RunnableConfig = {"configurable": {"thread_id": other, "checkpoint_ns": ""}}
    put = target.put(config, found.checkpoint, found.metadata, found.checkpoint["channel_versions"])
    tasks: dict[str, list[tuple[str, object]]] = {}
    for task, channel, value in found.pending_writes or ():
        tasks.setdefault(task, []).append((channel, value))
    for task, writes in tasks.items():
        target.put_writes(put, writes, task)
