"""The written forms of a rewrite: how a model is asked for it, how it is written down to learn from, how it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from langchain_vlmguard.plugins import plugin
from langchain_vlmguard.rewriting.prompts import rewriter_messages
from langchain_vlmguard.rewriting.replies import read_json
from langchain_vlmguard.rewriting.report import Rewrite, Threat
from langchain_vlmguard.rewriting.short_form import ShortForm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.rewriting.report import Model
    from langchain_vlmguard.rewriting.stages import CausalReport


class Form(Protocol):
    """How a rewriter's model is asked and answers."""

    @property
    def name(self) -> str:
        """The name that an adapter's settings carry."""

    def ask(
        self, messages: Sequence[BaseMessage], *, system_prompt: str | None = None, problem: str | None = None
    ) -> list[BaseMessage]:
        """Return what the model is shown."""

    def bound(self, model: Model, messages: Sequence[BaseMessage]) -> Model:
        """Return the model, held to this form where it can be."""

    def imitated(self, messages: Sequence[BaseMessage]) -> bool:
        """Whether the last turn holds a report in this form, which a model may copy instead of writing its own."""

    def write(self, report: CausalReport, rewrite: Rewrite) -> str:
        """Return the answer that a model of this form should give."""

    def parse(self, text: str) -> Rewrite:
        """Read an answer strictly.

        Raises:
            ValueError: The text has another form, or a field another value than it may have.
        """


_TAGS = ("threats", "intent", "legitimate", "action", "risk", "prompt")
_DELIMITED = re.compile(
    r"\s*" + r"\s*".join(rf"<{tag}>(?P<{tag}>(?:(?!</?(?:{'|'.join(_TAGS)})>).)*)</{tag}>" for tag in _TAGS) + r"\s*",
    re.DOTALL,
)


def parse_delimited(text: str) -> Rewrite:
    """Read the delimited form strictly: every tag once, in order, nothing around them.

    Raises:
        ValueError: The text has another form, or a field another value than it may have.
    """
    found = _DELIMITED.fullmatch(text)
    if found is None:
        msg = f"it does not hold exactly the tags {', '.join(_TAGS)}, each once and in this order"
        raise ValueError(msg)
    fields = {tag: found[tag].strip() for tag in _TAGS}
    lines = [line for line in fields["threats"].splitlines() if line.strip()]
    return Rewrite(
        threats=[] if [line.strip().casefold() for line in lines] == ["none"] else [_threat(line) for line in lines],
        intent=fields["intent"],
        legitimate_part=fields["legitimate"],
        action=fields["action"],  # type: ignore[arg-type]
        risk=fields["risk"],  # type: ignore[arg-type]
        rewritten_prompt=fields["prompt"] or None,
    )


def _threat(line: str) -> Threat:
    channel, _, rest = line.partition("|")
    hazard, _, rationale = rest.partition("|")
    return Threat(channel=channel.strip(), hazard=hazard.strip(), rationale=rationale.strip())  # type: ignore[arg-type]


@dataclass(frozen=True)
class DelimitedForm:
    """Tags, for models that speak English: an API model, or a real checkpoint with an adapter."""

    name: str = "delimited"

    def ask(
        self, messages: Sequence[BaseMessage], *, system_prompt: str | None = None, problem: str | None = None
    ) -> list[BaseMessage]:
        """Return the instruction and the fenced conversation."""
        return rewriter_messages(messages, system_prompt=system_prompt, delimited=True, problem=problem)

    def bound(self, model: Model, messages: Sequence[BaseMessage]) -> Model:  # noqa: ARG002 - tags are not enforced
        """Return the model as it is."""
        return model

    def imitated(self, messages: Sequence[BaseMessage]) -> bool:  # noqa: ARG002 - every part stands between marks of its own
        """Return `False`: what is fenced cannot be taken for an answer."""
        return False

    def write(self, report: CausalReport, rewrite: Rewrite) -> str:  # noqa: ARG002 - the rewrite says it all
        """Return a rewrite in tags."""
        threats = [f"{t.channel} | {t.hazard} | {' '.join(t.rationale.split())}" for t in rewrite.threats]
        fields = (
            "\n".join(threats) or "none",
            rewrite.intent,
            rewrite.legitimate_part,
            rewrite.action,
            f"{rewrite.risk:g}",
            rewrite.rewritten_prompt or "",
        )
        return "\n".join(f"<{tag}>{_untagged(text)}</{tag}>" for tag, text in zip(_TAGS, fields, strict=True))

    def parse(self, text: str) -> Rewrite:
        """Read the tags strictly, or the same report as one JSON object, which some models write whatever they are asked for."""
        return Rewrite.model_validate(read_json(text)) if text.startswith("{") else parse_delimited(text)


def _untagged(text: str) -> str:
    return re.sub(rf"</?({'|'.join(_TAGS)})>", "", text)


_FORMS: dict[str, type[Form]] = {"delimited": DelimitedForm, "short": ShortForm}


def form_of(name: str, words: Mapping[str, str] | None = None) -> Form:
    """Return the written form that an adapter's settings name; other packages may register forms of theirs.

    Raises:
        ValueError: There is no such form.
    """
    if name in _FORMS:
        return _FORMS[name]()
    if (registered := plugin("forms", name)) is None:
        msg = f"there is no written form {name!r}: use {' or '.join(_FORMS)}, or install the package that registers it"
        raise ValueError(msg)
    form: Form = registered(words or {})
    return form
