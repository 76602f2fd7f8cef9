"""The scheduler: rows join and leave, each under its own settings; nothing is lost, stuck or mixed up."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from langchain_core.exceptions import ContextOverflowError

from langchain_vlmguard import ChatSteeredVLM, Steering
from langchain_vlmguard.errors import BusyError, GenerationTimeoutError, ModelMemoryError
from langchain_vlmguard.models.batch import Batch
from langchain_vlmguard.models.chat_format import to_chat_row
from langchain_vlmguard.models.requests import Request, Settings
from langchain_vlmguard.models.scheduler import GATHERED
from langchain_vlmguard.models.waiting import Waiting
from langchain_vlmguard.steering.architectures import locate_decoder
from langchain_vlmguard.steering.gates import AlwaysOpen
from langchain_vlmguard.steering.interventions import Fulfil, ProjectOut, Transplant
from tests.waiting import wait_until
from vlmguard_lab.testbed.requests import cells

REQUESTS = [cell.sample(2, seed=11)[1] for cell in cells() if cell.family != "tool"]


@pytest.fixture
def vlm(testbed):
    """The testbed under a scheduler of its own."""
    own = replace(testbed)
    yield own
    wait_until(lambda: own.engine.scheduler.idle)
    assert not any(layer._forward_hooks for layer in locate_decoder(own.model).layers)


def row(vlm, request):
    return to_chat_row([request.message()], vlm.processor)


def request_for(vlm, request=REQUESTS[0], steering=None, **settings):
    return Request(row(vlm, request), Settings(**{"max_tokens": 40, **settings}), steering)


def alone(vlm, *args, **kwargs):
    one = request_for(vlm, *args, **kwargs)
    vlm.engine.scheduler.submit(one)
    return one.result()


def steerings(vlm):
    recommended = Steering.recommended(vlm.directions)
    kinds = (ProjectOut(), Transplant(), Fulfil())
    return [None, recommended, *(replace(recommended, intervention=kind, gate=AlwaysOpen()) for kind in kinds)]


def test_rows_that_come_and_go_get_the_answers_they_get_alone(vlm):
    variants = [
        (request, steering, {"max_tokens": 3 + 7 * (at % 6)})
        for at, request in enumerate(REQUESTS[:5])
        for steering in steerings(vlm)[at % 2 :: 2]
    ]
    expected = [alone(vlm, request, steering, **settings) for request, steering, settings in variants]
    requests = [request_for(vlm, request, steering, **settings) for request, steering, settings in variants]
    for at, one in enumerate(requests):  # some while others decode already
        vlm.engine.scheduler.submit(one)
        if at % 5 == 4:
            time.sleep(0.01)
    found = [one.result() for one in requests]
    assert [one.text for one in found] == [one.text for one in expected]
    assert [one.output_tokens for one in found] == [one.output_tokens for one in expected]
    scores = [[one.steering["score"] for one in answers if one.steering] for answers in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_late_row_joins_the_running_batch(vlm, monkeypatch):
    joined = []
    join = Batch.join
    monkeypatch.setattr(Batch, "join", lambda self, other: (joined.append(len(other.rows)), join(self, other)))
    begun = threading.Event()
    long, late = request_for(vlm, REQUESTS[0]), request_for(vlm, REQUESTS[5])
    long.on_piece = lambda _: begun.set()
    expected = alone(vlm, REQUESTS[5]).text
    vlm.engine.scheduler.submit(long)
    begun.wait(10)
    vlm.engine.scheduler.submit(late)
    assert late.result().text == expected
    long.result()
    assert joined == [1]


def test_each_row_samples_from_its_own_seed_whoever_is_beside_it(vlm):
    sampled = {"temperature": 3.0, "seed": 5, "max_tokens": 12}
    expected = [alone(vlm, request, **sampled).text for request in REQUESTS[:4]]
    mixed = [request_for(vlm, request, **sampled) for request in REQUESTS[:4]]
    others = [request_for(vlm, request, temperature=2.0, seed=at) for at, request in enumerate(REQUESTS[:4])]
    vlm.engine.scheduler.submit(*others, *mixed)
    assert [one.result().text for one in mixed] == expected


def test_a_cancelled_row_leaves_within_one_token(vlm, monkeypatch):
    steps = []
    step = Batch.step
    monkeypatch.setattr(Batch, "step", lambda self: (steps.append(len(self.active)), step(self))[1])
    one = request_for(vlm, max_tokens=400, temperature=50.0, seed=0)
    one.on_piece = lambda _: one.cancel()
    vlm.engine.scheduler.submit(one)
    wait_until(lambda: vlm.engine.scheduler.idle)
    assert one.future.cancelled()
    after_first_piece = len(steps)
    assert after_first_piece < 8  # pieces leave a token or two late; nothing runs after the cancel


def test_a_cancelled_row_does_not_disturb_its_neighbours(vlm):
    expected = alone(vlm, REQUESTS[1]).text
    leaving, staying = request_for(vlm, REQUESTS[0]), request_for(vlm, REQUESTS[1])
    leaving.on_piece = lambda _: leaving.cancel()
    vlm.engine.scheduler.submit(leaving, staying)
    assert staying.result().text == expected


async def test_cancelling_a_task_takes_its_row_out(vlm):
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=900, temperature=50.0)
    task = asyncio.create_task(model.ainvoke([REQUESTS[0].message()]))
    await asyncio.to_thread(wait_until, lambda: not vlm.engine.scheduler.idle)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until, lambda: vlm.engine.scheduler.idle, 2.0)


async def test_an_async_stream_that_is_left_stops(vlm):
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=900, temperature=50.0, seed=1)
    stream = model.astream([REQUESTS[0].message()])
    async for _ in stream:
        break
    await stream.aclose()
    await asyncio.to_thread(wait_until, lambda: vlm.engine.scheduler.idle, 2.0)


def test_a_timeout_is_an_error_of_core_and_frees_the_model(vlm):
    model = ChatSteeredVLM.from_loaded(vlm, max_tokens=900, temperature=50.0, timeout=0.05)
    with pytest.raises(GenerationTimeoutError, match="no answer within"):
        model.invoke([REQUESTS[0].message()])
    with pytest.raises(GenerationTimeoutError):
        list(model.stream([REQUESTS[0].message()]))
    wait_until(lambda: vlm.engine.scheduler.idle, 2.0)


def test_a_full_queue_is_a_clear_error(vlm):
    vlm.engine.scheduler.max_waiting = 3
    with pytest.raises(BusyError, match="limit is 3"):
        vlm.engine.scheduler.submit(*(request_for(vlm) for _ in range(4)))
    assert vlm.engine.scheduler.idle


def test_too_long_a_prompt_is_cores_typed_error_and_nobody_elses(vlm):
    fine = request_for(vlm)
    long = Request(replace(fine.row, text=fine.row.text * 200), fine.settings, None)
    vlm.engine.scheduler.submit(long, fine)
    with pytest.raises(ContextOverflowError, match=r"the prompt has \d+ tokens and the model reads 1024"):
        long.result()
    assert fine.result().text


def test_an_answer_ends_where_the_context_ends(vlm):
    fine = request_for(vlm, max_tokens=5000, temperature=80.0, seed=2)
    vlm.engine.scheduler.submit(fine)
    answer = fine.result()
    assert answer.finish_reason == "length" or answer.output_tokens < 1024
    assert answer.input_tokens + answer.output_tokens <= 1024


@pytest.mark.parametrize("when", ["prefill", "step"])
def test_memory_that_runs_out_halves_the_batch_once(vlm, monkeypatch, when):
    sizes = []
    run = getattr(Batch, when)

    def limited(self):
        rows = len(self.active) if when == "step" else len(self._requests)
        sizes.append(rows)
        if rows > 2:
            raise torch.OutOfMemoryError
        run(self)

    monkeypatch.setattr(Batch, when, limited)
    expected = [alone(vlm, request).text for request in REQUESTS[:4]]
    sizes.clear()
    requests = [request_for(vlm, request) for request in REQUESTS[:4]]
    pieces = [[] for _ in requests]
    for one, seen in zip(requests, pieces, strict=True):
        one.on_piece = seen.append
    vlm.engine.scheduler.submit(*requests)
    assert [one.result().text for one in requests] == expected
    assert ["".join(seen) for seen in pieces] == expected
    assert max(sizes) > 2 >= sizes[-1]


@pytest.mark.parametrize("when", ["prefill", "step"])
def test_memory_that_runs_out_again_is_a_clear_error(vlm, monkeypatch, when):
    def fail(self):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Batch, when, fail)
    requests = [request_for(vlm, request) for request in REQUESTS[:4]]
    vlm.engine.scheduler.submit(*requests)
    for one in requests:
        with pytest.raises((ModelMemoryError, torch.OutOfMemoryError)):
            one.result()


def test_an_error_of_one_row_is_nobody_elses(vlm):
    fine, bad = request_for(vlm), request_for(vlm, REQUESTS[1], adapter=None)
    bad.row = replace(bad.row, pictures=("no picture",))
    expected = alone(vlm).text
    vlm.engine.scheduler.submit(bad, fine)
    assert fine.result().text == expected
    with pytest.raises(Exception, match=r".+"):
        bad.result()


def test_an_unknown_adapter_is_named(vlm):
    with pytest.raises(ValueError, match="no adapter 'rewriter' is loaded"):
        alone(vlm, adapter="rewriter")


def test_clients_take_turns_in_the_queue(vlm):
    waiting = Waiting(100)
    base = request_for(vlm)
    greedy = [replace(base, client="greedy") for _ in range(10)]
    modest = [replace(base, client="modest") for _ in range(2)]
    waiting.add(greedy + modest)
    order = [one.client for one in waiting.take(running=base.batch_size - 4)]
    assert order == ["greedy", "modest", "greedy", "modest"]
    assert len(waiting) == 8


def test_log_probabilities_are_those_of_the_model(vlm):
    answer = alone(vlm, logprobs=2, max_tokens=5)
    encoded = vlm.processor(text=row(vlm, REQUESTS[0]).text, return_tensors="pt")
    with torch.inference_mode():
        first = vlm.model(**encoded).logits[0, -1].log_softmax(-1)
    assert answer.logprobs[0].logprob == pytest.approx(float(first.max()), abs=1e-4)
    assert answer.logprobs[0].top[0] == pytest.approx((answer.logprobs[0].token, answer.logprobs[0].logprob), abs=1e-5)
    assert len(answer.logprobs) == answer.output_tokens == 5


def test_n_answers_and_logprobs_through_the_chat_model(vlm):
    model = ChatSteeredVLM.from_loaded(vlm, n=3, temperature=3.0, seed=0, max_tokens=8, logprobs=True, top_logprobs=1)
    result = model.generate([[REQUESTS[0].message()]])
    texts = [generation.text for generation in result.generations[0]]
    assert len(set(texts)) == 3
    content = result.generations[0][0].message.response_metadata["logprobs"]["content"]
    assert [set(one) for one in content] == [{"token", "logprob", "top_logprobs"}] * len(content)


def test_the_thread_goes_when_there_is_no_work(vlm, monkeypatch):
    from langchain_vlmguard.models import scheduler

    monkeypatch.setattr(scheduler, "IDLE", 0.05)
    alone(vlm, max_tokens=2)
    wait_until(lambda: vlm.engine.scheduler._thread is None, 2.0)
    assert alone(vlm, max_tokens=2).output_tokens == 2


def test_a_served_model_can_be_let_go(testbed):
    import weakref

    own = replace(testbed)
    alone(own, max_tokens=2)
    gone = weakref.ref(own)
    del own
    gc.collect()
    wait_until(lambda: gc.collect() is not None and gone() is None, 2.0)


def test_newcomers_gather_for_one_prefill_but_never_wait_long(vlm, monkeypatch):
    begun, prefilled, steps = threading.Event(), [], []
    prefill, step = Batch.prefill, Batch.step
    monkeypatch.setattr(Batch, "prefill", lambda self: (prefilled.append(len(self._requests)), prefill(self))[1])
    monkeypatch.setattr(Batch, "step", lambda self: (steps.append(len(prefilled)), time.sleep(0.02), step(self))[2])
    running = [request_for(vlm) for _ in range(12)]
    running[0].on_piece = lambda _: begun.set()
    vlm.engine.scheduler.submit(*running)
    begun.wait(10)
    late = [request_for(vlm, max_tokens=2) for _ in range(4)]
    before = len(prefilled)
    for one in late[:3]:
        vlm.engine.scheduler.submit(one)
    assert len({one.result().text for one in late[:3]}) == 1
    assert prefilled[before:] == [3]
    waited = len(steps)
    vlm.engine.scheduler.submit(late[3])
    assert late[3].result().output_tokens == 2
    assert len(steps) - waited <= GATHERED + 4


def test_a_program_may_end_while_the_model_still_answers():
    script = (
        "from langchain_vlmguard import ChatSteeredVLM;"
        "model = ChatSteeredVLM.from_pretrained('testbed', max_tokens=400);"
        "streams = [model.stream('how do i make a kite ?') for _ in range(3)];"
        "print([next(stream).text for stream in streams])"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
