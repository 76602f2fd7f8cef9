"""Amazon Bedrock's Converse through langchain-aws: botocore asks a hook, and no socket is opened."""

from __future__ import annotations

import json
from binascii import crc32
from io import BytesIO
from struct import pack
from typing import TYPE_CHECKING, Any

from vlmguard_lab.bench.providers.openai import halves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vlmguard_lab.bench.providers.script import Said
    from vlmguard_lab.bench.providers.wire import Wire

MARK = ({"type": "text", "text": "Remember that I live in Lima."}, {"cachePoint": {"type": "default"}})
_METRICS = {"metrics": {"latencyMs": 1}, "usage": {"inputTokens": 9, "outputTokens": 3, "totalTokens": 12}}


def model(wire: Wire) -> Any:
    """Return a model whose client answers from a hook before anything is sent."""
    import boto3
    from botocore.awsrequest import AWSResponse
    from langchain_aws import ChatBedrockConverse

    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    client = boto3.Session(**keys).client("bedrock-runtime")

    def answer(request: Any, **_: Any) -> Any:
        kind, body = wire.answer(request.url, request.body)
        return AWSResponse(request.url, 200, {"content-type": kind}, _Raw(body))

    client.meta.events.register("before-send.bedrock-runtime.*", answer)
    given: dict[str, Any] = {"model": "anthropic.claude-sonnet-4-5-20250929-v1:0", "client": client}
    return ChatBedrockConverse(bedrock_client=client, **given)


class _Raw(BytesIO):
    """A body as botocore reads it."""

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        """Yield the body."""
        yield self.read()


def render(said: Said, number: str, streams: bool) -> tuple[str, bytes]:  # noqa: FBT001
    """Write an answer of Converse."""
    blocks: list[dict[str, Any]] = []
    if said.thought:
        told = {"reasoningText": {"text": said.thought, "signature": "c2lnbmVk"}}
        blocks.append({"reasoningContent": told})
    if said.text:
        blocks.append({"text": said.text})
    for at, (name, args) in enumerate(said.calls):
        blocks.append({"toolUse": {"toolUseId": f"tooluse_{number}_{at}", "name": name, "input": args}})
    ends = {"stopReason": "tool_use" if said.calls else "end_turn"}
    if not streams:
        message = {"message": {"role": "assistant", "content": blocks}}
        return "application/json", json.dumps({"output": message, **ends, **_METRICS}).encode()
    events: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
    for at, block in enumerate(blocks):
        here = {"contentBlockIndex": at}
        if "toolUse" in block:
            used = {key: value for key, value in block["toolUse"].items() if key != "input"}
            events.append(("contentBlockStart", {**here, "start": {"toolUse": used}}))
        events += [("contentBlockDelta", {**here, "delta": one}) for one in _deltas(block)]
        events.append(("contentBlockStop", here))
    events += [("messageStop", ends), ("metadata", _METRICS)]
    return "application/vnd.amazon.eventstream", b"".join(_frame(*one) for one in events)


def _deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    if "text" in block:
        return [{"text": one} for one in halves(block["text"])]
    if "toolUse" in block:
        return [{"toolUse": {"input": one}} for one in halves(json.dumps(block["toolUse"]["input"]))]
    told = block["reasoningContent"]["reasoningText"]
    thoughts = [{"reasoningContent": {"text": one}} for one in halves(told["text"])]
    return [*thoughts, {"reasoningContent": {"signature": told["signature"]}}]


def _frame(kind: str, payload: dict[str, Any]) -> bytes:
    """Return one message of Amazon's event stream: lengths, headers, payload, and two checksums."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    head = b"".join(
        pack("!B", len(name)) + name.encode() + pack("!BH", 7, len(value)) + value.encode()
        for name, value in headers.items()
    )
    body = json.dumps(payload).encode()
    lengths = pack("!II", len(head) + len(body) + 16, len(head))
    message = lengths + pack("!I", crc32(lengths)) + head + body
    return message + pack("!I", crc32(message))
