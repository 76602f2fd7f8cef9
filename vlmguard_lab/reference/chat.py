"""What the language model says in words alone, before any training: answers to our prompts, and facts about things.

Text-only chat keeps the alignment of the language model in place. Its answers are the untouched model's own, so that training
on them asks for no change; a prompt that it refused is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import track

from langchain_vlmguard.files import read_json, write_json
from langchain_vlmguard.verdict.refusal_phrases import sounds_like_refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    from vlmguard_lab.reference.concepts import Concept
    from vlmguard_lab.reference.parts import Size

    _Wanted = tuple[str, tuple[str, ...], int]
    """The prompt, where its answer is kept, and how many tokens it may take."""

PROMPTS = Path(__file__).with_name("chat_prompts.txt")
_ONE_FACT_IN = 12
"""One thing in this many gets a question about it that only the language model's own knowledge answers."""

_ABOUT = {
    "What is the thing in the picture good for?": "What is {a} good for? Answer in one short sentence.",
    "Tell me something about what you see.": "Tell me one fact about {b} in one short sentence.",
    "Where would you find this?": "Where would you usually find {a}? Answer in one short sentence.",
    "What do people do with it?": "What do people do with {b}? Answer in one short sentence.",
}
"""A question on a picture, and the one that is put to the language model, with the name in it."""

_LOOSE_NUMBER = re.compile(r"\s*\n\d+\.$")
"""The number of an item that was not written any more."""

_CHAT_TOKENS, _FACT_TOKENS = 56, 40


def chat_prompts() -> list[str]:
    """Return our harmless prompts."""
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def answers_file(size: Size) -> Path:
    """Return the file of what the untouched model of this size said.

    It holds `{"chat": {prompt: answer}, "facts": {name: {question: answer}}}`.
    """
    return Path(__file__).with_name(f"answers_{size}.json")


def chat_answers(size: Size) -> dict[str, str]:
    """Return the untouched model's answers by prompt."""
    found: dict[str, str] = read_json(answers_file(size))["chat"]
    return found


def facts(size: Size) -> dict[str, list[tuple[str, str]]]:
    """Return questions on pictures and their answers, by what is shown."""
    found = read_json(answers_file(size))["facts"]
    return {name: list(pairs.items()) for name, pairs in found.items()}


def write_answers(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    known: Iterable[Concept],
    file: Path,
    *,
    batch: int = 24,
) -> None:
    """Ask the untouched model and keep what it finishes and does not refuse; what is in the file already is kept.

    Args:
        model: The language model inside an assembled checkpoint, before any training.
        processor: Its processor.
        known: Things that training may show.
        file: Where the answers go, written after each batch.
        batch: Questions asked at a time.
    """
    kept: dict[str, Any] = read_json(file) if file.exists() else {"asked": 0, "chat": {}, "facts": {}}
    wanted = _wanted(known)
    for start in track(range(int(kept["asked"]), len(wanted), batch), description="asking the untouched model"):
        part = wanted[start : start + batch]
        for (_, place, _), answer in zip(part, _answers(model, processor, part), strict=True):
            if answer is None or sounds_like_refusal(answer):
                continue
            here = kept
            for key in place[:-1]:
                here = here.setdefault(key, {})
            here[place[-1]] = answer
        kept["asked"] = start + len(part)
        write_json(file, kept)


def answered(file: Path, known: Iterable[Concept]) -> bool:
    """Whether everything was asked."""
    return file.exists() and read_json(file)["asked"] >= len(_wanted(known))


def _wanted(known: Iterable[Concept]) -> list[_Wanted]:
    """Return what to ask: every prompt, and one question about one thing in `_ONE_FACT_IN`."""
    found: list[_Wanted] = [(prompt, ("chat", prompt), _CHAT_TOKENS) for prompt in chat_prompts()]
    for index, concept in enumerate(list(known)[::_ONE_FACT_IN]):
        question, asked = list(_ABOUT.items())[index % len(_ABOUT)]
        plural = concept.name if concept.name.endswith("s") or not concept.countable else f"{concept.name}s"
        found.append((asked.format(a=concept.phrase, b=plural), ("facts", concept.name, question), _FACT_TOKENS))
    return found


def _answers(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, part: Sequence[_Wanted]
) -> list[str | None]:
    """Return greedy answers; one that was cut off ends at its last whole sentence, `None` where there is none."""
    turns = [[{"role": "user", "content": prompt}] for prompt, _, _ in part]
    texts = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
    rows = processor.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        out = model.generate(**rows, max_new_tokens=max(tokens for _, _, tokens in part), do_sample=False)
    written = processor.tokenizer.batch_decode(out[:, rows["input_ids"].shape[1] :], skip_special_tokens=True)
    return [_whole(text.strip(), limit) for text, (_, _, limit) in zip(written, part, strict=True)]


def _whole(text: str, limit: int) -> str | None:
    """Cut a text after its last finished sentence within some `limit` tokens, counted generously as five letters each."""
    text = _LOOSE_NUMBER.sub("", text[: 5 * limit])
    if text.endswith((".", "!", "?", "`", '"', ")")):
        return text
    end = max(text.rfind(mark) for mark in (". ", "! ", "? ", ".\n"))
    return text[: end + 1].strip() if end > 0 else None
