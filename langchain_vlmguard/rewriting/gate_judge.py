"""`GateJudge`: a steered VLM judges by its own text-only path, where its alignment is whole, in one prefill."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable

from langchain_vlmguard.content.messages import readable
from langchain_vlmguard.content.turn import turn_start
from langchain_vlmguard.errors import NoThresholdError
from langchain_vlmguard.rewriting.rewriter import Rewrite, Threat
from langchain_vlmguard.verdict.policy import GuardPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_vlmguard.content.turn import Block
    from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
    from langchain_vlmguard.rewriting.subjects import Subject
    from langchain_vlmguard.verdict.records import Channel

HAZARD = "vlmguard:gate"
"""The gate knows that something is harmful, not what kind of harm it is."""


@dataclass(frozen=True)
class Wording:
    """How what is judged is put to the model, in the words of the prompts its directions were fitted on."""

    person: str = "{text}"
    """What a person wrote."""

    result: str = "{text}"
    """What a tool returned."""

    answer: str = "{text}"
    """What the model is about to answer."""

    call: str = "How do I {tool} {args}?"
    """A tool call; `{args}` are the values of its arguments."""

    picture: str = "{seen}"
    """What the model sees in a picture; `{text}` is what was written beside it."""

    look: str = "What is in the picture?"
    """The question that puts a picture in words."""


class GateJudge(Runnable["list[BaseMessage]", Rewrite]):
    """Judges turns, answers, tool calls and tool results by the gate of a steered VLM; needs no second model.

    Words are read on the text-only path. A picture is first put in words by the same model, and these are read on that path
    too. The risk is the highest one found; `GuardPolicy` decides what is done about it. It never rewrites.

    What the model does not see in a picture, this judge does not see either.

    ??? example "Guard an agent with the VLM that drives it"

        ```python
        vlm = ChatSteeredVLM.from_pretrained("testbed")
        agent = create_agent(vlm, tools, middleware=[VLMGuardMiddleware(GateJudge(vlm))])
        ```
    """

    def __init__(self, model: ChatSteeredVLM, wording: Wording | None = None, *, threat_at: float = 0.5) -> None:
        """Judge with a model.

        Args:
            model: The steered VLM.
            wording: How what is judged is put to it.
            threat_at: Risk from which a threat is named in the report.

        Raises:
            ValueError: The model has no steering, and so no gate.
        """
        if model.steering is None:
            msg = "the model has no steering: give it directions, or fit some with SafetyDirections.fit"
            raise ValueError(msg)
        self.model = model
        self.wording = wording or Wording()
        self.threat_at = threat_at

    @property
    def identity(self) -> str:
        """What a verdict calls this judge; it names no steering that would have to be loaded first."""
        steering = self.model.active_steering if self.model.is_loaded else None
        return f"GateJudge:{self.model.model}:{steering.identity if steering else None}"

    def phrase(self, subject: Subject) -> str:
        """Word an answer or a tool call for this judge."""
        if subject.kind == "answer":
            return self.wording.answer.format(text=subject.text)
        values = " ".join(str(value) for value in subject.args.values())
        return self.wording.call.format(tool=subject.tool, args=values)

    def invoke(self, input: Sequence[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any) -> Rewrite:  # noqa: A002, ARG002
        """Judge the last turn of a conversation.

        Raises:
            UnreadableContentError: A part of the turn cannot be read.
        """
        return self._call_with_config(self._judged, list(input), config)

    async def ainvoke(
        self,
        input: Sequence[BaseMessage],  # noqa: A002 - the interface's name
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> Rewrite:
        """Judge the last turn of a conversation without blocking the event loop."""

        async def judged(asked: list[BaseMessage]) -> Rewrite:
            return await asyncio.to_thread(self._judged, asked)

        return await self._acall_with_config(judged, list(input), config)

    def risks(self, texts: Sequence[str]) -> list[float]:
        """Return the gate's risk for texts, each a prompt of its own: `[0, 1]`, one prefill for all."""
        return gate_risks(self.model, texts) if texts else []

    def _judged(self, messages: list[BaseMessage]) -> Rewrite:
        read = readable(messages)
        current = read[turn_start(read) :]
        said = [self._worded(message) for message in current if isinstance(message, HumanMessage | ToolMessage)]
        parts = [one for one in said if one[1].strip()]
        parts += self._seen(current)
        risks = self.risks([text for _, text in parts])
        threats = [
            Threat(channel=channel, hazard=HAZARD, rationale="The model's own states on text mark this as harmful.")
            for (channel, _), risk in zip(parts, risks, strict=True)
            if risk >= self.threat_at
        ]
        return Rewrite(
            threats=list(dict.fromkeys(threats)),
            intent="not reconstructed: the gate judges without words",
            action="allow",
            risk=max(risks, default=0.0),
        )

    def _worded(self, message: BaseMessage) -> tuple[Channel, str]:
        text = str(message.text)
        if not text.strip():
            return "textual", ""
        if isinstance(message, ToolMessage):
            return "tool_result", self.wording.result.format(text=text)
        return "textual", self.wording.person.format(text=text)

    def _seen(self, messages: Sequence[BaseMessage]) -> list[tuple[Channel, str]]:
        """Put each picture in words, with what was written beside it."""
        found: list[tuple[Channel, Block, str]] = [
            ("tool_result" if isinstance(message, ToolMessage) else "visual", block, str(message.text))
            for message in messages
            if isinstance(message.content, list) and not isinstance(message, AIMessage)
            for block in message.content
            if isinstance(block, dict) and block.get("type") == "image"
        ]
        if not found:
            return []
        looking = self.model.model_copy(update={"steering": None})
        asked: list[Any] = [
            [HumanMessage([block, {"type": "text", "text": self.wording.look}])] for _, block, _ in found
        ]
        seen = looking.batch(asked, {"callbacks": [], "tags": ["nostream"]})
        return [
            (channel, self.wording.picture.format(seen=str(answer.text), text=text))
            for (channel, _, text), answer in zip(found, seen, strict=True)
        ]


def withholding_risk(model: ChatSteeredVLM, harmless: Sequence[BaseMessage], *, share: float = 0.002) -> float:
    """Return the gate risk to give `GuardPolicy.gate_unsafe_at`, from harmless requests of one's own.

    In log-odds it lies halfway between the highest risk that more than a share of them reach and certainty, since wordings that
    are not among them reach further; never below the default `unsafe_at`.

    Args:
        model: The steered model that answers.
        harmless: Harmless requests, those with pictures included; a few hundred at least. Each is read, none answered.
        share: Share of them that may be withheld.

    Raises:
        NoThresholdError: More than that share reads as certainly unsafe: let this gate steer, and withhold nothing by it.
        ValueError: There are no requests, or the model has no steering.
    """
    if not harmless:
        msg = "give harmless requests to find the risk by"
        raise ValueError(msg)
    reading = model.model_copy(update={"max_tokens": 1})
    if reading.active_steering is None:
        msg = "the model has no steering, and so no gate"
        raise ValueError(msg)
    answers = reading.batch([[message] for message in harmless])
    risks = sorted((float(answer.response_metadata["steering"]["risk"]) for answer in answers), reverse=True)
    highest = risks[min(int(share * len(risks)), len(risks) - 1)]
    if highest >= _CERTAIN:
        msg = f"more than {share:.1%} of these harmless requests read as certainly unsafe: no risk tells them from harmful ones"
        raise NoThresholdError(msg)
    halfway = sqrt(_odds(highest) * _odds(_CERTAIN))
    return max(GuardPolicy().unsafe_at, halfway / (1 + halfway))


_CERTAIN = 0.9999


def _odds(risk: float) -> float:
    return risk / (1 - risk)


def gate_risks(model: ChatSteeredVLM, texts: Sequence[str]) -> list[float]:
    """Return the risk that a model's gate reads on the text-only path, one for each text.

    Raises:
        ValueError: The model has no steering.
    """
    if model.active_steering is None:
        msg = "the model has no steering, and so no gate"
        raise ValueError(msg)
    return model.judge_texts(texts)
