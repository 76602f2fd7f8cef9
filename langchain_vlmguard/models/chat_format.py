"""From LangChain messages to what a processor takes: rendered text and decoded pictures."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Required, TypedDict

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_vlmguard.content.checking import open_picture
from langchain_vlmguard.content.messages import read_for_model
from langchain_vlmguard.content.turn import blocks_of, turn_start
from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage
    from PIL import Image
    from transformers import ProcessorMixin

    from langchain_vlmguard.content.fetch import PictureFetcher
    from langchain_vlmguard.steering.attachment import QueryForm
    from langchain_vlmguard.verdict.limits import ReadLimits


@dataclass(frozen=True, eq=False)
class ChatRow:
    """One conversation, ready for the processor."""

    text: str
    """The rendered prompt, with the family's picture placeholders."""

    text_only: str
    """The same conversation with its pictures left out: the path on which the language model's alignment is whole."""

    pictures: tuple[Image.Image, ...] = ()

    pictures_hash: str | None = None
    """SHA-256 of the pictures' modes, sizes and pixels, in order; `None` where their features are not to be kept."""

    request: str | None = None
    """The turn's typed words alone, as one message under the template's own system prompt, without tools or history: the form
    of the anchors, in which thresholds hold whatever stands around a request. `None` where that is `text_only`."""

    def query(self, form: QueryForm) -> str:
        """Return what an attachment reads beside the prompt: the conversation without pictures, or the request alone."""
        return self.text_only if form == "text" or self.request is None else self.request


class _Turn(TypedDict, total=False):
    """A message in Hugging Face chat form."""

    role: Required[str]
    content: Required[list[dict[str, str]]]
    tool_calls: list[dict[str, object]]


def to_chat_row(
    messages: Sequence[BaseMessage],
    processor: ProcessorMixin,
    *,
    tools: Sequence[Mapping[str, object]] | None = None,
    limits: ReadLimits | None = None,
    fetcher: PictureFetcher | None = None,
) -> ChatRow:
    """Render a conversation with the model's chat template.

    Control tokens of the model that stand in somebody's text ("<image>", "<|im_start|>") are broken up, so that a message
    cannot open a turn of its own or claim a picture that is not there.

    Args:
        messages: The conversation. Pictures must be readable (base64 or data URI); see `content.messages`.
        processor: The model's processor.
        tools: Tools in OpenAI's form.
        limits: How much the conversation may hold, and from where pictures may be fetched.
        fetcher: How they are fetched.

    Raises:
        UnreadableContentError: A part of a message cannot be shown to the model; the error names it.
        ValueError: The processor has no chat template.
    """
    if not getattr(processor, "chat_template", None):
        msg = f"{type(processor).__name__} has no chat template: set processor.chat_template or use an instruct checkpoint"
        raise ValueError(msg)
    controls = _control_tokens(processor)
    pictures: list[Image.Image] = []
    read = read_for_model(messages, limits, fetcher)
    turns = [_turn(message, pictures, controls) for message in read]
    options = {**_PLAIN, "tools": list(tools)} if tools else _PLAIN
    text = processor.apply_chat_template(turns, **options)
    bare = processor.apply_chat_template([_without_pictures(turn) for turn in turns], **options) if pictures else text
    request = _request(read, controls)
    plain = None if request is None else processor.apply_chat_template([request], **_PLAIN)
    return ChatRow(text, bare, tuple(pictures), _hash(pictures) if pictures else None, None if plain == bare else plain)


_PLAIN: dict[str, object] = {"tokenize": False, "add_generation_prompt": True}


def _request(messages: Sequence[BaseMessage], controls: re.Pattern[str]) -> _Turn | None:
    """Return what was typed since the last answer as one message, `None` if nothing was."""
    said = [str(message.text) for message in messages[turn_start(messages) :] if isinstance(message, HumanMessage)]
    text = "\n".join(one for one in said if one.strip())
    return {"role": "user", "content": [{"type": "text", "text": _broken_up(text, controls)}]} if text else None


def _hash(pictures: Sequence[Image.Image]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{picture.mode}:{picture.size}:".encode())
        digest.update(picture.tobytes())
    return digest.hexdigest()


def _turn(message: BaseMessage, pictures: list[Image.Image], controls: re.Pattern[str]) -> _Turn:
    parts: list[dict[str, str]] = []
    for part in blocks_of(message):
        if part["type"] == "image":
            pictures.append(open_picture(part))
            parts.append({"type": "image"})
        else:
            parts.append({"type": "text", "text": _broken_up(part["text"], controls)})
    turn: _Turn = {"role": _role(message), "content": parts}
    if isinstance(message, AIMessage) and message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "function": {"name": call["name"], "arguments": call["args"]}}
            for call in message.tool_calls
        ]
    return turn


def _broken_up(text: str, controls: re.Pattern[str]) -> str:
    return controls.sub(lambda found: " ".join(found[0]), text)


def _role(message: BaseMessage) -> str:
    roles = ((HumanMessage, "user"), (AIMessage, "assistant"), (SystemMessage, "system"), (ToolMessage, "tool"))
    for kind, role in roles:
        if isinstance(message, kind):
            return role
    msg = f"a {type(message).__name__} cannot be shown to the model: use human, AI, system and tool messages"
    raise UnreadableContentError(msg)


def _without_pictures(turn: _Turn) -> _Turn:
    return {**turn, "content": [part for part in turn["content"] if part["type"] != "image"]}


def _control_tokens(processor: ProcessorMixin) -> re.Pattern[str]:
    tokenizer = processor.tokenizer
    tokens = {
        *tokenizer.all_special_tokens,
        *(getattr(processor, name, None) for name in ("image_token", "video_token")),
    }
    words = sorted(filter(None, map(str, tokens)), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words)))
