"""Check what will work with a checkpoint before relying on it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from langchain_vlmguard.models.checkpoints import checkpoint_path
from langchain_vlmguard.models.guard_files import DIRECTIONS_FILE, named_in

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from transformers import PreTrainedModel, ProcessorMixin

Found = TypeVar("Found")
Status = Literal["ok", "warning", "failure"]
TOOL = {
    "type": "function",
    "function": {
        "name": "vlmguard_probe",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"item": {"type": "string"}}},
    },
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    status: Status
    said: str
    """What was found, and what to do about it if something should be done."""


def examine(model: str, *, run: bool = False, directions: str | None = None) -> Iterator[Finding]:
    """Examine a checkpoint; without `run`, its weights are not read.

    Args:
        model: A local folder, a hub id, or `"testbed"`.
        run: Load it and answer once with and once without a picture.
        directions: Directions that should fit it; those in its folder when `None`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from langchain_vlmguard.models.processors import load_processor

    path = checkpoint_path(model)
    config = yield from _try("config", lambda: AutoConfig.from_pretrained(path), lambda c: f"model type {c.model_type}")
    if config is None:
        return
    with torch.device("meta"):
        empty = yield from _try(
            "architecture", lambda: AutoModelForImageTextToText.from_config(config), lambda m: type(m).__name__
        )
    if empty is not None:
        yield from _decoder(empty, directions or _beside(path))
        yield _memory(empty)
    processor = yield from _try("processor", lambda: load_processor(path), lambda p: type(p).__name__)
    if processor is not None:
        yield from _template(processor)
    yield _grammar(processor)
    if run:
        yield from _answers(model)


def _decoder(model: PreTrainedModel, directions: str | None) -> Iterator[Finding]:
    from langchain_vlmguard.steering.architectures import locate_decoder
    from langchain_vlmguard.steering.directions import SafetyDirections

    decoder = yield from _try(
        "decoder layers",
        lambda: locate_decoder(model),
        lambda found: f"{len(found)} layers of hidden size {found.hidden_size} at {found.path}",
    )
    if directions is None:
        yield Finding(
            "directions", "warning", "none given and none beside the weights: fit them, or answers are not steered"
        )
    elif decoder is not None:
        card = yield from _try("directions", lambda: SafetyDirections.load(directions).card, lambda card: card.model_id)
        if card is not None and (card.layers, card.hidden_size) != (len(decoder), decoder.hidden_size):
            said = f"they are of {card.layers} layers of size {card.hidden_size}: fit directions for this model"
            yield Finding("directions", "failure", said)


def _memory(model: PreTrainedModel) -> Finding:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    sizes = ", ".join(
        f"{parameters * width / 2**30:.2f} GiB in {name}" for name, width in (("bf16", 2), ("float32", 4))
    )
    return Finding("memory", "ok", f"{parameters / 1e6:.1f} M parameters: {sizes}, besides the cache of the rows")


def _template(processor: ProcessorMixin) -> Iterator[Finding]:
    def rendered(turn: Mapping[str, object], **options: object) -> str:
        return str(processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True, **options))

    text = {"type": "text", "text": "hello"}
    plain = yield from _try(
        "text-only path",
        lambda: rendered({"role": "user", "content": [text]}),
        lambda found: f"template gives {found!r}",
    )
    if plain is None:
        return
    picture = {"role": "user", "content": [{"type": "image"}, text]}
    yield from _try(
        "pictures", lambda: _differs(rendered(picture), plain), lambda _: "the template has a place for them"
    )
    offered = rendered({"role": "user", "content": [text]}, tools=[TOOL])
    if "vlmguard_probe" in offered:
        yield Finding("tools", "ok", "the template shows tools to the model")
    else:
        said = "the template leaves tools out: the model cannot know them; force calls with tool_choice, or use another template"
        yield Finding("tools", "warning", said)


def _differs(one: str, other: str) -> str:
    if one == other:
        msg = "the chat template leaves pictures out"
        raise ValueError(msg)
    return one


def _grammar(processor: ProcessorMixin | None) -> Finding:
    if find_spec("llguidance") is None:
        return Finding("structured output", "warning", "needs llguidance: pip install 'langchain-vlmguard[structured]'")
    if processor is not None and getattr(processor.tokenizer, "backend_tokenizer", None) is None:
        return Finding("structured output", "warning", "needs a fast tokenizer, and this checkpoint has none")
    return Finding("structured output", "ok", "schemas and tool choices are enforced token by token")


def _answers(model: str) -> Iterator[Finding]:
    from langchain_core.messages import HumanMessage
    from PIL import Image

    from langchain_vlmguard.content.checking import check_picture
    from langchain_vlmguard.content.images import picture_bytes
    from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
    from langchain_vlmguard.verdict.limits import ImageLimits

    chat = yield from _try("weights", lambda: ChatSteeredVLM.from_pretrained(model, max_tokens=8), lambda _: "loaded")
    if chat is None:
        return
    limits = ImageLimits()
    block = check_picture(picture_bytes(Image.new("RGB", (64, 64), "white"), limits), limits).block()
    for subject, content in (("answer to text", []), ("answer to a picture", [block])):
        asked = [HumanMessage([*content, {"type": "text", "text": "What is this?"}])]
        yield from _try(
            subject,
            lambda asked=asked: chat.invoke(asked),  # type: ignore[misc]
            lambda answer: f"{answer.text!r}, {'steered' if 'steering' in answer.response_metadata else 'not steered'}",
        )


def _try(
    subject: str, step: Callable[[], Found], say: Callable[[Found], str]
) -> Generator[Finding, None, Found | None]:
    """Run one step and yield what it found; return the step's value, or `None` if it failed."""
    try:
        found = step()
        said = say(found)
    except Exception as error:  # noqa: BLE001 - a doctor reports whatever is wrong
        yield Finding(subject, "failure", f"{type(error).__name__}: {error}")
        return None
    yield Finding(subject, "ok", said)
    return found


def _beside(path: str) -> str | None:
    file = named_in(Path(path), DIRECTIONS_FILE)
    return str(file) if file.is_file() else None
