"""Rows of ours in an engine of vLLM: one thread feeds it, takes what comes, and refuses what is not stamped."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import TYPE_CHECKING, Protocol, cast

from langchain_vlmguard.errors import BusyError, EngineRefusedError, extra
from langchain_vlmguard.models.requests import Generated, TokenLogprob
from langchain_vlmguard.steering.steering import Steering
from langchain_vlmguard.vllm.asking import Asked
from langchain_vlmguard.vllm.settings import KEY, RowSettings
from langchain_vlmguard.vllm.stamps import Stamp, stamp_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_vlmguard.models.requests import Request, Settings


class _Logprob(Protocol):
    logprob: float
    decoded_token: str


class _Answer(Protocol):
    text: str
    token_ids: Sequence[int]
    finish_reason: str | None
    logprobs: Sequence[Mapping[int, _Logprob]] | None


class _Output(Protocol):
    request_id: str
    finished: bool
    prompt_token_ids: Sequence[int] | None
    outputs: Sequence[_Answer]
    kv_transfer_params: dict[str, object] | None


class LLMEngine(Protocol):
    """What is used of `vllm.LLM.llm_engine`."""

    def add_request(self, request_id: str, prompt: object, params: object) -> str: ...  # noqa: D102
    def abort_request(self, request_ids: list[str]) -> None: ...  # noqa: D102
    def step(self) -> list[_Output]: ...  # noqa: D102


@dataclass(eq=False)
class _Job:
    """One request of ours, in one or several requests of vLLM's after each other."""

    request: Request
    asked: Asked | None
    waits_for: list[str]
    """Readings that are still to be made, by `"query"` and `"input"`; the row itself comes after them."""

    reads: dict[str, Stamp] = field(default_factory=dict)
    settings: RowSettings = field(default_factory=lambda: RowSettings("nothing"))
    prompt: int = 0
    emitted: int = 0


class ServedQueue:
    """Takes requests as `Scheduler` does, and has vLLM answer them, all in one continuous batch.

    Args:
        engine: vLLM's own.
        names: Digest of directions to the name that the engine knows them by.
        max_waiting: Most requests on their way.
    """

    def __init__(self, engine: LLMEngine, names: Mapping[str, str], max_waiting: int = 512) -> None:
        """Start idle; the thread runs while there is work."""
        self._engine, self._names, self.max_waiting = engine, names, max_waiting
        self._new: deque[Request] = deque()
        self._jobs: dict[str, _Job] = {}
        self._changed = Condition()
        self._thread: Thread | None = None
        self._number = itertools.count()

    def submit(self, *requests: Request, bounded: bool = True) -> None:
        """Take requests in.

        Raises:
            BusyError: Too many are on their way (unless `bounded` is off).
        """
        with self._changed:
            if bounded and len(self._new) + len(self._jobs) + len(requests) > self.max_waiting:
                msg = f"{self.max_waiting} requests are on their way to vLLM already: try again later"
                raise BusyError(msg)
            self._new.extend(requests)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="vlmguard-vllm", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._new and not self._jobs:
                    self._thread = None
                    return
                new, self._new = list(self._new), deque()
            for request in new:
                self._begin(request)
            self._drop()
            try:
                outputs = self._engine.step() if self._jobs else []
            except Exception as error:  # noqa: BLE001 - raised again in the callers' own threads
                self._fail_all(error)
                continue
            for output in outputs:
                if (job := self._jobs.get(output.request_id)) is not None:
                    self._guarded(job, output)

    def _fail_all(self, error: Exception) -> None:
        for job in self._jobs.values():
            job.request.fail(error)
        self._jobs.clear()

    def _begin(self, request: Request) -> None:
        if request.expire():
            return
        try:
            job = _job(request, self._names)
            self._ask(job)
        except Exception as error:  # noqa: BLE001 - raised again in the caller's own thread
            request.fail(error)

    def _ask(self, job: _Job) -> None:
        """Hand the job's next request to vLLM."""
        row, settings = job.request.row, job.request.settings
        read = job.waits_for[0] if job.waits_for else None
        if job.asked is not None:
            job.settings = job.asked.steer(job.reads) if read is None else job.asked.read(query=read == "query")
        text = row.text
        if read == "query" and job.asked is not None:
            text = row.query(job.asked.steering.query_form)
        prompt: dict[str, object] = {"prompt": text}
        if row.pictures and read != "query":
            prompt["multi_modal_data"] = {"image": list(row.pictures)}
        name = f"vlmguard-{next(self._number)}"
        self._jobs[name] = job
        try:
            self._engine.add_request(name, prompt, _sampling(settings, job.settings, reads=read is not None))
        except Exception:
            del self._jobs[name]
            self._engine.abort_request([name])
            raise

    def _drop(self) -> None:
        """Take out the rows whose callers have left or whose time is up."""
        for name in [name for name, job in self._jobs.items() if job.request.expire()]:
            del self._jobs[name]
            self._engine.abort_request([name])

    def _guarded(self, job: _Job, output: _Output) -> None:
        try:
            self._take(job, output)
        except Exception as error:  # noqa: BLE001 - raised again in the caller's own thread
            job.request.fail(error)
            if self._jobs.pop(output.request_id, None) is not None and not output.finished:
                self._engine.abort_request([output.request_id])

    def _take(self, job: _Job, output: _Output) -> None:
        """Look at what came of a job: nothing of an answer is handed on before its stamp was checked."""
        answer = output.outputs[0]
        stamp = stamp_of(output.kv_transfer_params, job.settings)
        if job.waits_for:
            if output.finished:
                del self._jobs[output.request_id]
                self._read(job, cast("Stamp", stamp))
            return
        if answer.finish_reason == "error":
            msg = "vLLM ended the row with an error"
            raise EngineRefusedError(msg)
        piece = answer.text[job.emitted :]
        if piece and job.request.on_piece is not None:
            job.emitted += len(piece)
            job.request.on_piece(piece)
        if output.finished:
            del self._jobs[output.request_id]
            job.request.finish(_generated(job, output, stamp))

    def _read(self, job: _Job, stamp: Stamp) -> None:
        job.reads[job.waits_for.pop(0)] = stamp
        self._ask(job)


def _job(request: Request, names: Mapping[str, str]) -> _Job:
    """Return what is to be asked for a request.

    Raises:
        EngineRefusedError: It asks for something that vLLM does not do for us.
    """
    settings, attachment = request.settings, request.attachment
    if settings.grammar is not None or settings.adapter is not None or settings.until_gate:
        msg = "grammars, adapters and until_gate are not supported in vLLM: load the model with from_pretrained"
        raise EngineRefusedError(msg)
    if attachment is None:
        return _Job(request, None, [])
    if not isinstance(attachment, Steering):
        msg = f"vLLM steers, and does nothing else: a {type(attachment).__name__} is not supported there"
        raise EngineRefusedError(msg)
    if attachment.directions.hash not in names:
        msg = f"the engine was not started with the directions {attachment.directions.hash}: see engine_options"
        raise EngineRefusedError(msg)
    row, form = request.row, attachment.query_form
    own = not row.pictures and (form == "text" or row.query(form) == row.text)
    asked = Asked(attachment, names[attachment.directions.hash], pictured=bool(row.pictures), own_query=own)
    wanted = [name for name, needed in (("query", asked.reads_query), ("input", asked.reads_input)) if needed]
    return _Job(request, asked, wanted)


def _sampling(settings: Settings, row: RowSettings, *, reads: bool) -> object:
    with extra("vllm"):
        from vllm import SamplingParams
    mark = {KEY: row.render()}
    if reads:
        return SamplingParams(max_tokens=1, temperature=0.0, extra_args=mark)
    return SamplingParams(
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=1.0 if settings.top_p is None else settings.top_p,
        top_k=settings.top_k or 0,
        seed=settings.seed,
        stop=list(settings.stop) or None,
        logprobs=settings.logprobs,
        skip_special_tokens=not settings.markers,
        extra_args=mark,
    )


def _generated(job: _Job, output: _Output, stamp: Stamp | None) -> Generated:
    answer = output.outputs[0]
    trace = None
    if job.asked is not None and stamp is not None:
        trace = job.asked.trace({"input": stamp} if job.asked.gated else job.reads, stamp)
    logprobs = None
    if job.request.settings.logprobs is not None:
        logprobs = tuple(itertools.starmap(_logprob, zip(answer.token_ids, answer.logprobs or (), strict=True)))
    return Generated(
        text=answer.text if job.emitted or job.request.settings.stop else answer.text.strip(),
        input_tokens=len(output.prompt_token_ids or ()),
        output_tokens=len(answer.token_ids),
        finish_reason="length" if answer.finish_reason == "length" else "stop",
        steering=trace,
        logprobs=logprobs,
    )


def _logprob(token: int, found: Mapping[int, _Logprob]) -> TokenLogprob:
    top = tuple((one.decoded_token, one.logprob) for number, one in found.items() if number != token)
    return TokenLogprob(found[token].decoded_token, found[token].logprob, top)
