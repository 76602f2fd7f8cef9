"""Run rows through a loaded model: left-padded batches or one stream, steered or not."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from langchain_vlmguard.models.chat_format import ChatRow
    from langchain_vlmguard.models.loading import LoadedVLM
    from langchain_vlmguard.steering.steering import SteeredCall, Steering


@dataclass(frozen=True)
class Settings:
    """How to decode."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    until_gate: bool = False
    """End a row after its first token where the steering gate opens: its caller wants another prompt answered then."""


@dataclass(frozen=True)
class Generated:
    """One row's answer."""

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: str
    """`"stop"` or `"length"`."""

    steering: dict[str, Any] | None = None
    """The row's steering trace, `None` when steering is off."""


def generate_rows(
    loaded: LoadedVLM,
    rows: Sequence[ChatRow],
    settings: Settings,
    steering: Steering | None,
    *,
    batch_size: int = 16,
) -> list[Generated]:
    """Answer rows in left-padded batches; rows with and without pictures run apart, similar lengths together."""
    order = sorted(range(len(rows)), key=lambda i: (bool(rows[i].pictures), len(rows[i].text)))
    answers: dict[int, Generated] = {}
    for pictured in (False, True):
        indices = [i for i in order if bool(rows[i].pictures) == pictured]
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            answers.update(zip(part, _generate(loaded, [rows[i] for i in part], settings, steering), strict=True))
    return [answers[i] for i in range(len(rows))]


def stream_row(
    loaded: LoadedVLM, row: ChatRow, settings: Settings, steering: Steering | None
) -> Iterator[str | Generated]:
    """Answer one row, yielding pieces of text as they come and the whole `Generated` at the end.

    Closing the iterator stops the generation at the next token. An error of the model is raised here.
    """
    from langchain_vlmguard.models.streaming import CancelCriteria, QueueStreamer  # noqa: PLC0415 - needs torch

    queue: SimpleQueue[str | Generated | BaseException] = SimpleQueue()
    cancelled = Event()
    streamer = QueueStreamer(loaded.processor.tokenizer, queue, settings.stop)

    def work() -> None:
        try:
            extra = {"streamer": streamer, "stopping_criteria": [CancelCriteria(cancelled)]}
            generated = _generate(loaded, [row], settings, steering, **extra)[0]
            streamer.flush()
            queue.put(generated)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            queue.put(error)

    worker = Thread(target=copy_context().run, args=(work,), daemon=True)
    worker.start()
    try:
        while True:
            item = queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, Generated):
                return
    finally:
        cancelled.set()
        worker.join()


def _generate(
    loaded: LoadedVLM, rows: list[ChatRow], settings: Settings, steering: Steering | None, **extra: Any
) -> list[Generated]:
    import torch  # noqa: PLC0415 - importing the package must stay light

    model = loaded.model
    inputs = _encode(loaded, rows)
    with loaded.lock, torch.inference_mode(), _seeded(settings.seed):
        with _steered(loaded, rows, inputs, steering) as call:
            whole = model.generate(**inputs, **_options(loaded, settings), **_until_gate(call, settings), **extra)
        traces = call.trace() if call else [None] * len(rows)
    prompt = inputs["input_ids"].shape[1]
    read = inputs["attention_mask"].sum(dim=1).tolist()
    return [
        _generated(loaded, tokens, settings, trace, int(used))
        for tokens, trace, used in zip(whole[:, prompt:], traces, read, strict=True)
    ]


def _encode(loaded: LoadedVLM, rows: list[ChatRow], *, pictures: bool = True) -> dict[str, Tensor]:
    from langchain_vlmguard.steering.encoding import encode_texts  # noqa: PLC0415 - needs torch

    texts = [row.text if pictures else row.text_only for row in rows]
    shown = [row.pictures for row in rows if row.pictures] if pictures else []
    encoded = encode_texts(loaded.processor, texts, shown)
    return {name: tensor.to(loaded.model.device) for name, tensor in encoded.items()}


def _steered(
    loaded: LoadedVLM, rows: list[ChatRow], inputs: dict[str, Tensor], steering: Steering | None
) -> AbstractContextManager[SteeredCall | None]:
    import torch  # noqa: PLC0415

    if steering is None:
        return nullcontext()
    return steering.attach(
        loaded.model,
        pictured=torch.tensor([bool(row.pictures) for row in rows]),
        inputs=inputs,
        text_inputs=_encode(loaded, rows, pictures=False) if steering.needs_text_query else None,
    )


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    import torch  # noqa: PLC0415

    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _options(loaded: LoadedVLM, settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"max_new_tokens": settings.max_tokens, "do_sample": settings.temperature > 0}
    if options["do_sample"]:
        options |= {"temperature": settings.temperature, "top_p": settings.top_p or 1.0}
    if settings.stop:
        options |= {"stop_strings": list(settings.stop), "tokenizer": loaded.processor.tokenizer}
    return options


def _until_gate(call: SteeredCall | None, settings: Settings) -> dict[str, Any]:
    if call is None or not settings.until_gate:
        return {}
    from langchain_vlmguard.models.streaming import OpenGateCriteria  # noqa: PLC0415 - needs torch

    return {"stopping_criteria": [OpenGateCriteria(call)]}


def _generated(
    loaded: LoadedVLM, tokens: Tensor, settings: Settings, trace: dict[str, Any] | None, used: int
) -> Generated:
    ids = tokens.tolist()
    ends = _end_tokens(loaded)
    length = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    text = loaded.processor.tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
    cut = min((at for stop in settings.stop if (at := text.find(stop)) >= 0), default=None)
    ended = cut is not None or (length > 0 and ids[length - 1] in ends)
    return Generated(text[:cut], used, length, "stop" if ended else "length", trace)


def _end_tokens(loaded: LoadedVLM) -> set[int]:
    end = loaded.model.generation_config.eos_token_id
    return {end} if isinstance(end, int) else set(end or ())
