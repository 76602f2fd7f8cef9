"""From generated rows to LangChain messages, whole or as they grow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypedDict

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from langchain_vlmguard.models.tool_calls import CallReader, parse_tool_calls

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from langchain_vlmguard.models.requests import Generated, TokenLogprob
    from langchain_vlmguard.models.tool_calls import Reading
    from langchain_vlmguard.steering.attachment import Attachment

PROVIDER = "langchain-vlmguard"


class _About(TypedDict):
    """What is known about a whole answer."""

    response_metadata: dict[str, object]
    usage_metadata: UsageMetadata


class Answer:
    """Turns what one call of a chat model generates into messages."""

    def __init__(self, model: str, attachment: Attachment | None, offered: Collection[str]) -> None:
        """Answer as `model`, under an attachment, with the tools whose names were offered."""
        self._model, self._attachment, self._offered = model, attachment, frozenset(offered)
        self._reader = CallReader(self._offered)
        self._sent = 0

    def result(self, rows: Sequence[Generated]) -> ChatResult:
        """Return whole answers, one a row."""
        messages = [self.message(row) for row in rows]
        usage = {
            "prompt_tokens": rows[0].input_tokens,
            "completion_tokens": sum(row.output_tokens for row in rows),
        }
        generations = [
            ChatGeneration(
                message=message, generation_info={"finish_reason": message.response_metadata["finish_reason"]}
            )
            for message in messages
        ]
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        return ChatResult(generations=generations, llm_output={"model_name": self._model, "token_usage": usage})

    def message(self, row: Generated) -> AIMessage:
        """Return one whole answer."""
        reading = parse_tool_calls(row.text, self._offered)
        return AIMessage(
            content=reading.words,
            tool_calls=reading.calls,
            invalid_tool_calls=reading.invalid,
            **self._about(row, reading),
        )

    def piece(self, text: str) -> Iterator[ChatGenerationChunk]:
        """Take one more piece of text and yield what can be sent: words, and complete calls."""
        if not self._offered:
            yield _chunk(content=text)
            return
        words = self._reader.feed(text)
        if words and (words.strip() or not self._sent):
            yield _chunk(content=words)
        yield from self._new_calls()

    def end(self, row: Generated) -> Iterator[ChatGenerationChunk]:
        """Yield what was held back, and the metadata of the finished answer."""
        if self._offered:
            if words := self._reader.end().rstrip():
                yield _chunk(content=words)
            yield from self._new_calls()
        about = self._about(row, parse_tool_calls(row.text, self._offered))
        yield _chunk(content="", chunk_position="last", **about)

    def _new_calls(self) -> Iterator[ChatGenerationChunk]:
        found = [(call["name"], json.dumps(call["args"]), call["id"]) for call in self._reader.calls]
        # As a JSON text, which core cannot take for arguments when it reads the chunks again.
        found += [(call["name"] or "", json.dumps(call["args"]), call["id"]) for call in self._reader.invalid]
        for index, (name, arguments, number) in enumerate(found[self._sent :], start=self._sent):
            yield _chunk(
                content="", tool_call_chunks=[tool_call_chunk(name=name, args=arguments, id=number, index=index)]
            )
        self._sent = len(found)

    def _about(self, row: Generated, reading: Reading) -> _About:
        metadata: dict[str, object] = {
            "model_name": self._model,
            "model_provider": PROVIDER,
            "finish_reason": "tool_calls" if reading.calls else row.finish_reason,
        }
        if row.logprobs is not None:
            metadata["logprobs"] = {"content": [_logprob(one) for one in row.logprobs]}
        if self._attachment is not None and row.steering is not None:
            metadata["steering"] = row.steering
            metadata["provenance"] = dict(self._attachment.provenance)
        usage: UsageMetadata = {
            "input_tokens": row.input_tokens,
            "output_tokens": row.output_tokens,
            "total_tokens": row.input_tokens + row.output_tokens,
        }
        return {"response_metadata": metadata, "usage_metadata": usage}


def _chunk(**fields: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(**fields))


def _logprob(one: TokenLogprob) -> dict[str, object]:
    top = [{"token": token, "logprob": value} for token, value in one.top]
    return {"token": one.token, "logprob": one.logprob, "top_logprobs": top}
