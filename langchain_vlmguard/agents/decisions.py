"""`VLMGuardDecisionModel`: questions about a state, answered by a steered VLM in one forward pass (langchain-core >= 1.8)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

from langchain_core.messages import BaseMessage, HumanMessage
from pydantic import ConfigDict, SkipValidation

from langchain_vlmguard.content.turn import blocks_of
from langchain_vlmguard.models.answers import PROVIDER
from langchain_vlmguard.rewriting.gate_judge import gate_risks

try:
    from langchain_core.decisions import BaseDecisionModel, Choice, ClassifierResponse, Noul, Score
except ImportError as error:
    _NEEDED = "VLMGuardDecisionModel needs langchain-core 1.8 or newer: pip install 'langchain-core>=1.8'"
    raise ImportError(_NEEDED) from error

PICTURES = ("image", "image_url")

Prompt = Callable[[Any, Any], str]
"""Words a state and a question as one prompt; pictures of the state are shown beside it."""


class VLMGuardDecisionModel(BaseDecisionModel):
    """Answers questions from the logits of the labels' first tokens, steering on; no text is generated.

    With `signal="gate"`, yes/no questions are answered by the steering gate on the text-only path instead: the probability
    that the prompt is harmful. A question that cannot be answered raises, so that `AutoModeMiddleware` fails closed.

    ??? example "In `AutoModeMiddleware`"

        ```python
        classifier = VLMGuardDecisionModel(chat=ChatSteeredVLM.from_pretrained("path/or/hub-id"))
        agent = create_agent(model, tools, middleware=[AutoModeMiddleware(tools=["order"], classifier=classifier)])
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    chat: SkipValidation[Any]
    """The `ChatSteeredVLM`."""

    model: str = ""
    """Name reported with answers; the chat model's own when empty."""

    signal: Literal["labels", "gate"] = "labels"
    prompt: SkipValidation[Any] = None
    """A `Prompt`; the default lists the state, the instructions and the labels."""

    def model_post_init(self, context: Any, /) -> None:
        """Take over the chat model's name."""
        super().model_post_init(context)
        self.model = self.model or str(self.chat.model)

    @property
    def _provider(self) -> str:
        return PROVIDER

    def _classify(self, state: Any, questions: dict[str, Any]) -> Any:
        answers, read = {}, 0
        for name, question in questions.items():
            labels = _labels(question)
            if self.signal == "gate" and isinstance(question, Noul):
                yes = gate_risks(self.chat, [self._worded(state, question)])[0]
                shares = [yes, 1 - yes]
            else:
                shares, used = self._shares(state, question, labels)
                read += used
            answers[name] = _answer(question, labels, shares)
        usage = {"input_tokens": read, "output_tokens": 0, "total_tokens": read}
        return ClassifierResponse(model=self.model, answers=answers, usage=usage)

    def _worded(self, state: Any, question: Any) -> str:
        return (self.prompt or _default_prompt)(state, question)

    def _shares(self, state: Any, question: Any, labels: list[str]) -> tuple[list[float], int]:
        """Return each label's share of the labels' probability, and the tokens read."""
        import torch

        from langchain_vlmguard.models.chat_format import to_chat_row
        from langchain_vlmguard.steering.encoding import encode_texts

        loaded, steering = self.chat.loaded, self.chat.active_steering
        content: list[str | dict[str, Any]] = [
            *_pictures(state),
            {"type": "text", "text": self._worded(state, question)},
        ]
        row = to_chat_row([HumanMessage(content)], loaded.processor)
        shown = [row.pictures] if row.pictures else []
        inputs, bare = (
            {name: tensor.to(loaded.model.device) for name, tensor in encode_texts(loaded.processor, *one).items()}
            for one in (([row.text], shown), ([row.text_only], []))
        )
        pictured = torch.tensor([bool(shown)])
        attached = (
            steering.attach(loaded.model, pictured=pictured, inputs=inputs, text_inputs=bare)
            if steering
            else nullcontext()
        )
        with loaded.engine.lock, torch.inference_mode(), attached:
            logits = loaded.model(**inputs, use_cache=False).logits[0, -1].float()
        everything = torch.softmax(logits, 0)
        mass = torch.stack([everything[tokens].sum() for tokens in _first_tokens(loaded.processor.tokenizer, labels)])
        return (mass / mass.sum()).tolist(), int(inputs["attention_mask"].sum())


def _labels(question: Any) -> list[str]:
    """Return the words whose first tokens answer a question."""
    if isinstance(question, Noul):
        return ["yes", "no"]
    if isinstance(question, Choice):
        return list(question.criteria)
    if isinstance(question, Score):
        return [str(level) for level in range(len(question.criteria))]
    msg = f"{type(question).__name__} questions cannot be answered from label logits: ask a yes/no, choice or score question"
    raise ValueError(msg)


def _first_tokens(tokenizer: Any, labels: list[str]) -> list[list[int]]:
    """Return the first tokens of each label in its spellings.

    Raises:
        ValueError: Two labels start with the same token, so that one forward pass cannot tell them apart.
    """
    found = []
    for label in labels:
        spellings = {label, label.capitalize(), f" {label}", f" {label.capitalize()}"}
        encoded = [tokenizer.encode(one, add_special_tokens=False) for one in sorted(spellings)]
        found.append(sorted({tokens[0] for tokens in encoded if tokens} - {tokenizer.unk_token_id}))
    every = [token for tokens in found for token in tokens]
    if len(set(every)) < len(every) or not all(found):
        msg = f"the labels {labels} do not start with different tokens: use labels that do, such as letters"
        raise ValueError(msg)
    return found


def _answer(question: Any, labels: list[str], shares: list[float]) -> dict[str, Any]:
    if isinstance(question, Noul):
        return {"type": "noul", "noul": shares[0]}
    best = max(range(len(labels)), key=shares.__getitem__)
    if isinstance(question, Choice):
        probabilities = dict(zip(labels, shares, strict=True))
        return {"type": "choice", "choice": labels[best], "probabilities": probabilities, "confidence": shares[best]}
    return {
        "type": "score",
        "score": sum(level * share for level, share in enumerate(shares)),
        "legend": dict(enumerate(question.criteria)),
        "probabilities": dict(enumerate(shares)),
        "confidence": shares[best],
    }


def _default_prompt(state: Any, question: Any) -> str:
    criteria: Any = getattr(question, "criteria", None)
    plain = criteria.model_dump() if hasattr(criteria, "model_dump") else criteria
    listed = f"\nCriteria: {_as_text(plain)}" if plain else ""
    labels = ", ".join(_labels(question))
    return f"{_as_text(state)}\n\n{_as_text(question.instructions)}{listed}\nAnswer with one of: {labels}."


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, BaseMessage):
        return f"{value.type}: {value.text}"
    if isinstance(value, Mapping):
        if value.get("type") in PICTURES:
            return "[picture]"
        return "\n".join(f"{key}: {_as_text(one)}" for key, one in value.items())
    if isinstance(value, Sequence):
        return "\n".join(_as_text(one) for one in value)
    return json.dumps(value, default=str)


def _pictures(value: Any) -> list[dict[str, Any]]:
    """Return the picture blocks at any depth of a state; unreadable ones raise when the row is made."""
    if isinstance(value, BaseMessage):
        return [block for block in blocks_of(value) if block.get("type") != "text"]
    if isinstance(value, Mapping):
        if value.get("type") in PICTURES:
            return [dict(value)]
        return [block for one in value.values() for block in _pictures(one)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [block for one in value for block in _pictures(one)]
    return []
