"""The engine of a loaded model: one scheduler, one lock and one store of picture features for all who ask it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

from langchain_vlmguard.models.requests import Request
from langchain_vlmguard.models.runtime import Runtime
from langchain_vlmguard.models.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence
    from threading import Lock

    from transformers import PreTrainedModel, ProcessorMixin

    from langchain_vlmguard.models.chat_format import ChatRow
    from langchain_vlmguard.models.picture_features import PictureFeatures
    from langchain_vlmguard.models.requests import Generated, Settings
    from langchain_vlmguard.steering.attachment import Attachment
    from langchain_vlmguard.steering.gates import GateReading
    from langchain_vlmguard.steering.steering import Steering


class Engine:
    """Runs one model for everybody: `LoadedVLM.engine`, shared by all chat models around it.

    ??? example "Rows without a chat model"

        ```python
        rows = [to_chat_row([HumanMessage("How do I make a kite?")], loaded.processor)]
        [answer] = loaded.engine.generate(rows, Settings(max_tokens=40), loaded.recommended)
        answer.text
        ```
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Start idle; a thread runs only while there is work."""
        self.runtime = Runtime(model, processor)
        self.scheduler = Scheduler(self.runtime)

    @property
    def lock(self) -> Lock:
        """Held while the model runs; hold it to run the model yourself."""
        return self.runtime.lock

    @property
    def features(self) -> PictureFeatures:
        """What the vision tower made of pictures; `features.max_bytes` bounds it."""
        return self.runtime.features

    def generate(
        self, rows: Sequence[ChatRow], settings: Settings, attachment: Attachment | None = None, *, batch_size: int = 16
    ) -> list[Generated]:
        """Answer any number of rows, up to `batch_size` at a time.

        Raises:
            Exception: Whatever the model raised for a row.
        """
        requests = [Request(row, settings, attachment, batch_size=batch_size) for row in rows]
        return self.run(requests, bounded=False)

    def run(self, requests: Sequence[Request], *, bounded: bool = True) -> list[Generated]:
        """Answer requests; they are cancelled if the wait is interrupted.

        Raises:
            BusyError: The queue is full (unless `bounded` is off).
            Exception: Whatever the model raised for a row.
        """
        self.scheduler.submit(*requests, bounded=bounded)
        try:
            return [request.result() for request in requests]
        finally:
            _cancel(requests)

    async def arun(self, requests: Sequence[Request]) -> list[Generated]:
        """Answer requests from an event loop; as `run`."""
        self.scheduler.submit(*requests)
        try:
            return await asyncio.gather(*(asyncio.wrap_future(request.future) for request in requests))
        finally:
            _cancel(requests)

    def stream(self, request: Request) -> Generator[str]:
        """Yield the pieces of an answer as they come; closing the iterator cancels the request.

        The whole answer, or its error, is in `request.future` once the pieces are over.
        """
        pieces: SimpleQueue[str | None] = SimpleQueue()
        request.on_piece = pieces.put
        request.future.add_done_callback(lambda _: pieces.put(None))
        self.scheduler.submit(request)
        try:
            while (piece := pieces.get()) is not None:
                yield piece
        finally:
            request.cancel()

    async def astream(self, request: Request) -> AsyncGenerator[str]:
        """Yield the pieces of an answer in an event loop; as `stream`."""
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        def put(piece: str | None) -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        request.on_piece = put
        request.future.add_done_callback(lambda _: put(None))
        self.scheduler.submit(request)
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
        finally:
            request.cancel()

    def read_gates(self, texts: list[str], steering: Steering) -> GateReading:
        """Return what a steering's gate reads of rendered texts without pictures, from one clean prefill for all."""
        import torch

        from langchain_vlmguard.steering.activations import states_until
        from langchain_vlmguard.steering.encoding import encode_texts
        from langchain_vlmguard.steering.gate_head import RequestStates
        from langchain_vlmguard.steering.turn_states import prefill

        model = self.runtime.model
        inputs = {name: one.to(model.device) for name, one in encode_texts(self.runtime.processor, texts).items()}
        layer, head = steering.read_layer, steering.head
        if head is not None:
            states = RequestStates(head.place, inputs, stop=True)
            with self.lock:
                prefill(model, inputs, [states])
            return head.read(states.features())
        with self.lock:
            state = states_until(model, inputs, (layer,))[layer]
        return steering.read_gate(torch.zeros(len(texts), dtype=torch.bool), state)


def _cancel(requests: Sequence[Request]) -> None:
    for request in requests:
        request.cancel()
