"""Typed questions about a state, in the form of vLLM's `/v1/systemone`, as far as a guard can answer them.

A guard knows one thing of a state: how harmful it is. A question says by its id or by its options which way round it asks. Any
other question is an error, and so is a state that could not be judged: an asker must never read silence as "safe".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal, Self

from langchain_core.messages import HumanMessage, SystemMessage
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from langchain_vlmguard.serving.chat_request import invalid
from langchain_vlmguard.serving.http_errors import HttpError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.messages import BaseMessage

    from langchain_vlmguard.verdict.records import Json, SafetyVerdict

HARMFUL = frozenset({"harmful", "unsafe", "block", "deny"})
HARMLESS = frozenset({"harmless", "safe", "allow"})
RISK = frozenset({"risk", "harm", "severity"})
"""Ids of questions, and names of options, whose meaning is fixed here; whatever their instructions say."""

_MOST_QUESTIONS, _MOST_LEVELS, _MOST_PICTURES = 64, 10, 128
_STOPPED = 0.5
"""Least risk of what the policy does not let pass as it stands."""

_IGNORED = ("chat_template_kwargs", "cache_salt", "seed", "priority", "request_id", "user", "metadata")
_PICTURES = ("image_url", "input_image")
_OWN_CHECKS = ("answer", "tool_args", "tool_result")
"""Checks of what a model says: a state has none of it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Question(_Strict):
    """A question in vLLM's form."""

    type: Literal["noul", "choice", "score"]
    instructions: object = ""
    criteria: object = None


class InlineImage(_Strict):
    """A picture in LiteLLM's second form."""

    content_type: str = Field(pattern=r"^image/[a-z0-9.+-]{1,40}$")
    base64: str = Field(min_length=1)

    @property
    def url(self) -> str:
        """The picture as a data address."""
        return f"data:{self.content_type};base64,{self.base64}"


class DecisionRequest(_Strict):
    """A state and typed questions about it."""

    state: str | dict[str, object] | list[object]
    """What is judged: text, or JSON; parts of a list that hold a picture are looked at."""

    questions: dict[Annotated[str, Field(min_length=1)], Question] = Field(min_length=1, max_length=_MOST_QUESTIONS)
    model: str | None = None
    instructions: str | None = None
    """Context before the state: it is judged with it."""

    images: list[str | InlineImage] | None = Field(default=None, max_length=_MOST_PICTURES)
    """Data addresses, or media type and base64."""

    @model_validator(mode="after")
    def _can_be_answered(self) -> Self:
        for name, question in self.questions.items():
            if _meaning(name, question) is None:
                raise ValueError(_ASKED_OTHERWISE)
        return self

    @property
    def conversation(self) -> list[BaseMessage]:
        """The state as a turn that the guard reads."""
        texts, pictures = _parts(self.state)
        pictures += [one if isinstance(one, str) else one.url for one in self.images or ()]
        content: list[str | dict[str, object]] = [{"type": "text", "text": text} for text in texts]
        content += [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        before: list[BaseMessage] = [SystemMessage(self.instructions)] if self.instructions else []
        return [*before, HumanMessage(content)]


_NAMES = frozenset(name for one in (DecisionRequest, Question, InlineImage) for name in one.model_fields)
_ASKED_OTHERWISE = "this guard answers how harmful a state is, and nothing else"
HOW = (
    f"{_ASKED_OTHERWISE}: name a noul question harmful, unsafe, harmless or safe; give a choice two options, such as safe and "
    "unsafe; name a score risk, harm or severity, with 2 to 10 levels from harmless to harmful"
)


def decision_request(body: Json) -> DecisionRequest:
    """Check a body.

    Raises:
        HttpError: It has another form, or asks something that a guard does not know.
    """
    given = {key: value for key, value in body.items() if key not in _IGNORED}
    try:
        wanted = DecisionRequest.model_validate(given)
    except ValidationError as error:
        if any(one["type"] == "value_error" for one in error.errors(include_url=False, include_input=False)):
            raise HttpError(400, "invalid_request", HOW, "questions") from error
        raise invalid(error, _NAMES) from error
    texts, pictures = _parts(wanted.state)
    if not (pictures or wanted.images or any(text.strip() for text in texts)):
        raise HttpError(400, "invalid_request", "the state is empty: there is nothing to judge", "state")
    return wanted


def risk_of(verdict: SafetyVerdict) -> float:
    """Return how harmful a state is, in [0, 1]; never below one half for what the policy does not let pass as it stands.

    Raises:
        HttpError: The state was not judged, or not all of it.
    """
    unjudged = [part for part in verdict.unjudged if part.is_unread or part.where not in _OWN_CHECKS]
    if unjudged:
        msg = "a part of the state cannot be judged, so there is no answer: send text, and pictures as PNG or JPEG"
        raise HttpError(400, "unreadable_content", msg, "state")
    found = verdict.risk
    if verdict.action != "allow":
        return max(found or 0.0, _STOPPED)
    if found is None:
        raise HttpError(400, "unreadable_content", "nobody here judges such a state, so there is no answer", "state")
    return found


def answers_of(questions: dict[str, Question], risk: float) -> Json:
    """Return the answer to each question, in vLLM's form."""
    return {name: _answer(name, question, risk) for name, question in questions.items()}


def _meaning(name: str, question: Question) -> Literal["harmful", "harmless", "choice", "score"] | None:
    """Return which way round a question asks, `None` if it asks something else."""
    name, criteria = name.lower(), question.criteria
    if question.type == "noul":
        fits = criteria is None or (isinstance(criteria, dict) and criteria.keys() <= {"true", "false"})
        return None if not fits else "harmful" if name in HARMFUL else "harmless" if name in HARMLESS else None
    if question.type == "choice":
        return "choice" if isinstance(criteria, dict) and _harmful_option(criteria) is not None else None
    levels = criteria if isinstance(criteria, list) else []
    return "score" if name in RISK and 2 <= len(levels) <= _MOST_LEVELS else None  # noqa: PLR2004


def _harmful_option(criteria: Iterable[object]) -> str | None:
    """Return which of two options says that a state is harmful, `None` if they say anything else."""
    options = [str(one) for one in criteria]
    bad = [one for one in options if one.lower() in HARMFUL]
    good = [one for one in options if one.lower() in HARMLESS]
    return bad[0] if len(options) == 2 and len(bad) == len(good) == 1 else None  # noqa: PLR2004


def _answer(name: str, question: Question, risk: float) -> Json:
    meaning = _meaning(name, question)
    if meaning in ("harmful", "harmless"):
        yes = risk if meaning == "harmful" else 1 - risk
        return {
            "type": "noul",
            "noul": yes,
            "probabilities": {"yes": yes, "no": 1 - yes},
            "confidence": max(yes, 1 - yes),
        }
    criteria = question.criteria
    if meaning == "choice" and isinstance(criteria, dict):
        bad = _harmful_option(criteria)
        shares = {option: risk if option == bad else 1 - risk for option in criteria}
        best = bad if risk >= _STOPPED else next(option for option in criteria if option != bad)
        return {"type": "choice", "choice": best, "probabilities": shares, "confidence": max(risk, 1 - risk)}
    levels = criteria if isinstance(criteria, list) else []
    level = risk * (len(levels) - 1)
    near = {str(at): max(0.0, 1 - abs(level - at)) for at in range(len(levels))}
    legend = {str(at): one if isinstance(one, str) else _as_json(one) for at, one in enumerate(levels)}
    return {"type": "score", "score": level, "legend": legend, "probabilities": near, "confidence": max(near.values())}


def _parts(state: str | dict[str, object] | list[object]) -> tuple[list[str], list[str]]:
    """Return the texts of a state, and the addresses of the pictures among its parts."""
    if isinstance(state, str):
        return [state], []
    if isinstance(state, dict):
        return [_as_json(state)], []
    texts, pictures = [], []
    for part in state:
        url = _picture(part)
        if url is not None:
            pictures.append(url)
        elif isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(str(part["text"]))
        else:
            texts.append(part if isinstance(part, str) else _as_json(part))
    return texts or [""], pictures


def _picture(part: object) -> str | None:
    inner = part.get("image_url") if isinstance(part, dict) and part.get("type") in _PICTURES else None
    url = inner.get("url") if isinstance(inner, dict) else inner
    return url if isinstance(url, str) else None


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
