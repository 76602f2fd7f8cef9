"""The four ways of asking for an answer: chat completions or responses, whole or streamed; one body for all of them."""

from dataclasses import dataclass

from tests.serving.running import send

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@dataclass(frozen=True)
class Way:
    """A route and a mode."""

    path: str
    stream: bool

    def __str__(self):
        return f"{self.path.split('/')[2]}-{'streamed' if self.stream else 'whole'}"

    def body(self, text="hi", *, messages=None, **fields):
        """A request in a chat's words, spelt as this route wants it."""
        messages = messages or [{"role": "user", "content": text}]
        if self.path == CHAT:
            return {"model": "up", "messages": messages, "stream": self.stream, **fields}
        fields.pop("stream_options", None)
        if tools := fields.pop("tools", None):
            fields["tools"] = [{"type": "function", **one["function"]} if "function" in one else one for one in tools]
        if form := fields.pop("response_format", None):
            fields["text"] = {"format": {"type": form["type"], **form.get("json_schema", {})}}
        given = [item for message in messages for item in _items(message)]
        return {"model": "up", "input": given, "stream": self.stream, **fields}

    def ask(self, server, text="hi", *, messages=None, headers=None, leave_after=None, **fields):
        """Send it and return all that came back."""
        body = self.body(text, messages=messages, **fields)
        return send(server.port, body, self.path, headers=headers, leave_after=leave_after)


WAYS = [Way(path, stream) for path in (CHAT, RESPONSES) for stream in (False, True)]


def _items(message):
    """A chat message as the items of an input."""
    content = message.get("content")
    if isinstance(content, list):
        content = [_part(one) for one in content]
    if message["role"] == "tool":
        yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": content}
    elif content is not None:
        yield {key: value for key, value in message.items() if key != "tool_calls"} | {"content": content}
    for call in message.get("tool_calls") or ():
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _part(part):
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    return {"type": "input_image", "image_url": part["image_url"]["url"]} if part["type"] == "image_url" else part
