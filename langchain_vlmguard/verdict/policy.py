"""What is done about what the guard finds: thresholds, actions, limits, and the words of a refusal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from langchain_vlmguard.verdict.hazards import title_of
from langchain_vlmguard.verdict.limits import ReadLimits
from langchain_vlmguard.verdict.records import Action, HazardId, Risk, Severity
from langchain_vlmguard.verdict.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_vlmguard.verdict.records import Json

SEVEREST: tuple[Action, ...] = ("allow", "rewrite", "review", "refuse")
"""Actions from the mildest to the severest."""

SHORT_NAMES: dict[str, tuple[str, ...]] = {
    "on_gate_open": ("gate", "on_open"),
    "on_gate_open_rewritten": ("gate", "on_open_rewritten"),
    "gate_unsafe_at": ("gate", "unsafe_at"),
    "rewrite": ("rewriting", "when"),
    "rewritten_pictures": ("rewriting", "pictures"),
    "adaptive_pictures": ("rewriting", "adaptive_pictures"),
    "judge_answers": ("rewriting", "judge_answers"),
    "on_second_reading": ("rewriting", "on_second_reading"),
    "image_hosts": ("reading", "hosts"),
    "max_images": ("reading", "max_images"),
    "max_text_chars": ("reading", "max_text_chars"),
    "max_image_bytes": ("reading", "image", "max_bytes"),
    "max_pixels": ("reading", "image", "max_pixels"),
    "max_image_ratio": ("reading", "image", "max_ratio"),
    "max_frames": ("reading", "image", "max_frames"),
    "frames": ("reading", "image", "frames"),
    "heif": ("reading", "image", "heif"),
    "isolate_decoding": ("reading", "image", "isolate"),
    "pdf": ("reading", "pdf", "read"),
    "max_pdf_pages": ("reading", "pdf", "max_pages"),
}
"""Short names that a policy also takes, and where they belong."""


def _group_of(fields: Json, short: str) -> tuple[Json, str]:
    """Return the group in which a short name belongs, as a plain dict that is part of the fields, and its name there."""
    *groups, field = SHORT_NAMES[short]
    for group in groups:
        given = fields.get(group, {})
        fields[group] = given.model_dump(exclude_unset=True) if isinstance(given, BaseModel) else dict(given)
        fields = fields[group]
    return fields, field


class GatePolicy(BaseModel):
    """What an open steering gate does to the answer that was given under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    on_open: Literal["keep", "refuse", "review"] = "keep"
    """What becomes of an answer given while the gate was open at `unsafe` risk. `keep`: the intervention acted."""

    on_open_rewritten: Literal["keep", "refuse", "review"] | None = None
    """The same for an answer to a rewritten prompt, as `on_open` if `None`. A rewritten prompt names its hazard, and a gate
    opens at the name: `keep` trusts rewriter and intervention with it, and gives safe advice instead of refusals."""

    unsafe_at: Risk | None = None
    """Gate risk from which `on_open` acts, the policy's `unsafe_at` if `None`. `withholding_risk` finds it from harmless
    requests: a gate that reads words alone may take words that point at a picture ("what is this?") for unsafe."""


class RewritePolicy(BaseModel):
    """When the rewriter is asked, and what may leave without it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    when: Literal["always", "adaptive", "answer_first", "never"] = "always"
    """`adaptive`: a turn whose steering gate stays clearly closed and whose parts the gate has all read is answered from that
    same prefill, without the rewriter; a model without a gate makes it `always`. `answer_first`: the model answers unsteered, and
    the rewriter is asked unless that answer is `safe` in words alone; a guard without a judge of texts makes it `always`."""

    pictures: Literal["keep", "drop"] = "keep"
    """Whether the turn's pictures are shown to the model beside a rewritten prompt. `drop` takes away the picture's pull, if
    the new prompt can stand alone; what a prompt that goes on unchanged shows is never dropped."""

    adaptive_pictures: Literal["rewrite", "skip"] = "rewrite"
    """With `adaptive`, whether a turn with pictures may skip the rewriter on the word of a gate that read its text alone (a
    probe that has read the pictures decides by itself). `skip` is faster and blind to harm that only the picture shows."""

    judge_answers: Literal["always", "uncleared"] = "always"
    """Which answers are judged. `uncleared`: not those of turns that a gate or a probe cleared on the answer's own prefill (with
    `adaptive`; a probe with `answer_first`). It spares them the judge's prefill and trusts the gate alone, which a picture made
    for it gets past."""

    on_second_reading: Literal["ask", "review", "refuse"] = "ask"
    """When a second reader (see `create_vlm_guard`) would say something `unsafe` to a turn. The rewriter is asked first if it has
    not been. `ask` accepts its decision; `review` and `refuse` run the second reader on what it let through. Without a rewriter,
    `ask` refuses."""


class PictureLabel(BaseModel):
    """What follows from a label that a classifier of pictures gives (`EvidenceReader(classifiers=…)`).

    ??? example "Explicit pictures are refused"

        ```python
        policy = GuardPolicy(picture_labels={"nsfw": PictureLabel(hazard="mlcommons:sxc", at=0.8)})
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hazard: HazardId
    """The hazard that the label stands for."""

    at: Risk = 0.5
    """Score from which the label counts."""

    action: Literal["allow", "review", "refuse"] = "refuse"
    """What becomes of the turn; `allow` only records the hazard."""


class GuardPolicy(BaseModel):
    """A tenant's policy. Nothing in it can turn an unread part or a failed check into a pass.

    The fields of `gate`, `rewriting` and `reading` may be given by short names, in code and in dicts: `rewrite="adaptive"`,
    `on_gate_open="refuse"`, `max_images=2`, `image_hosts={...}`.

    ??? example "Stricter about one hazard, faster on harmless turns"

        ```python
        policy = GuardPolicy(on_hazard={"mlcommons:spc": "review"}, rewrite="adaptive")
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None:
            """Take fields by their own names or by short ones."""

    @model_validator(mode="before")
    @classmethod
    def _take_short_names(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        fields = {key: value for key, value in given.items() if key not in SHORT_NAMES}
        for name in given.keys() & SHORT_NAMES.keys():
            into, field = _group_of(fields, name)
            if into.get(field, given[name]) != given[name]:
                msg = f"{name} is short for {'.'.join(SHORT_NAMES[name])}, and both were given with different values"
                raise ValueError(msg)
            into[field] = given[name]
        return fields

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return the policy with other values in some fields, by their own names or short ones; they are checked."""
        if not update:
            return super().model_copy(deep=deep)
        fields = self.model_dump(exclude_unset=True)
        for name, value in update.items():
            into, field = _group_of(fields, name) if name in SHORT_NAMES else (fields, name)
            into[field] = value
        return type(self).model_validate(fields)

    controversial_at: Risk = 0.3
    """Risk from which a turn is `controversial`."""

    unsafe_at: Risk = 0.7
    """Risk from which a turn is `unsafe`."""

    enabled_hazards: frozenset[HazardId] | None = None
    """Hazards that count; all when `None`. One that is off is still recorded; `on_hazard` and refusals pass over it."""

    on_hazard: dict[HazardId, Literal["allow", "review", "refuse"]] = Field(default_factory=dict)
    """Least action for single hazards, e.g. `{"mlcommons:spc": "review"}`."""

    rules: tuple[Rule, ...] = ()
    """Rules of yours in plain words, as hazards of their own (needs a rewriter that can be told, such as a chat model)."""

    on_controversial: Literal["allow", "review", "refuse"] = "allow"
    """Least action for a turn that the rewriter finds controversial and yet allows as it stands."""

    on_unsafe: Literal["allow", "review", "refuse"] = "refuse"
    """Least action for a turn that the rewriter finds unsafe and yet allows as it stands."""

    on_hidden_request: Literal["allow", "review", "refuse"] = "refuse"
    """When words found in a picture of the turn would be `unsafe` if somebody had typed them (needs evidence)."""

    on_unread_text: Literal["note", "review", "refuse"] = "refuse"
    """When a picture of the turn shows text that could not be read, in a script that the reader does not know (needs evidence).
    `note` lists it among the checks that nobody made."""

    picture_labels: dict[str, PictureLabel] = Field(default_factory=dict)
    """By label of a classifier of pictures, the hazard it stands for and from where on; other labels are only recorded."""

    on_unsafe_answer: Literal["keep", "review", "refuse"] = "refuse"
    """When what the model was about to say is `unsafe` in words alone (needs a judge of answers, see `create_vlm_guard`)."""

    on_error: Literal["refuse", "review"] = "refuse"
    """When the rewriter or the model fails."""

    on_unreadable: Literal["refuse", "review"] = "refuse"
    """When a part of the turn cannot be read."""

    gate: GatePolicy = Field(default_factory=GatePolicy)
    """What an open steering gate does to an answer."""

    rewriting: RewritePolicy = Field(default_factory=RewritePolicy)
    """When the rewriter is asked."""

    reading: ReadLimits = Field(default_factory=ReadLimits)
    """How much of a conversation is read."""

    refusal: str = "I can't help with this request{about}. {safe_way}"
    """Template of a refusal; `{about}` names hazard categories, `{safe_way}` offers what can be done."""

    safe_way: str = "I am glad to help with a safe version of it: tell me what you want to achieve."
    """What a refusal offers."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.controversial_at > self.unsafe_at:
            msg = f"controversial_at ({self.controversial_at}) must not lie above unsafe_at ({self.unsafe_at})"
            raise ValueError(msg)
        if SEVEREST.index(self.on_controversial) > SEVEREST.index(self.on_unsafe):
            msg = f"on_unsafe ({self.on_unsafe!r}) must not be milder than on_controversial ({self.on_controversial!r})"
            raise ValueError(msg)
        ids = [rule.id for rule in self.rules]
        if twice := {one for one in ids if ids.count(one) > 1} | {*ids} & {*self.on_hazard}:
            msg = f"{min(twice)} is said twice: each rule has an id of its own, and says by `on` what `on_hazard` would"
            raise ValueError(msg)
        try:
            self.refusal.format(about="", safe_way="")
        except (KeyError, IndexError, ValueError) as error:
            msg = f"the refusal template may use {{about}} and {{safe_way}} only: {error!r}"
            raise ValueError(msg) from error
        return self

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the policy's canonical JSON."""
        plain = self.model_dump(mode="json")
        plain["enabled_hazards"] = plain["enabled_hazards"] and sorted(plain["enabled_hazards"])
        plain["reading"]["hosts"] = sorted(plain["reading"]["hosts"])
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds as they are written into verdicts."""
        gate = {} if self.gate.unsafe_at is None else {"gate_unsafe": self.gate.unsafe_at}
        return {"controversial": self.controversial_at, "unsafe": self.unsafe_at, **gate}

    @property
    def withholds(self) -> bool:
        """Whether an open gate can keep any answer back."""
        return {self.gate.on_open, self.gate.on_open_rewritten} - {None, "keep"} != set()

    def on_gate(self, risk: float, *, rewritten: bool) -> Literal["keep", "refuse", "review"]:
        """Return what becomes of an answer that was given while the gate was open at some risk."""
        if risk < (self.unsafe_at if self.gate.unsafe_at is None else self.gate.unsafe_at):
            return "keep"
        return self.gate.on_open_rewritten or self.gate.on_open if rewritten else self.gate.on_open

    def severity(self, risk: float) -> Severity:
        """Place a risk in [0, 1]."""
        if risk >= self.unsafe_at:
            return "unsafe"
        return "controversial" if risk >= self.controversial_at else "safe"

    def counts(self, hazard: str) -> bool:
        """Whether a hazard may decide anything."""
        return self.enabled_hazards is None or hazard in self.enabled_hazards

    def decide(self, proposed: Action, risk: float, hazards: Iterable[str]) -> Action:
        """Return the rewriter's proposal, or something stricter where this policy asks for it."""
        actions: list[Action] = [proposed]
        if proposed == "allow":
            actions.append(self._least(self.severity(risk)))
        return severest([*actions, *(self.least_for(hazard) for hazard in hazards if self.counts(hazard))])

    def least_for(self, hazard: str) -> Action:
        """Return the least action for a hazard, by `on_hazard` or by a rule."""
        by_rule: dict[str, Action] = {rule.id: rule.on for rule in self.rules}
        return by_rule.get(hazard) or self.on_hazard.get(hazard, "allow")

    def title_of(self, hazard: str) -> str:
        """Return a hazard's name for people: a rule's own, or the taxonomy's."""
        return next((rule.called for rule in self.rules if rule.id == hazard), title_of(hazard))

    def _least(self, severity: Severity) -> Action:
        """Return the least action for a prompt of some severity that goes on unchanged."""
        least: dict[Severity, Action] = {"controversial": self.on_controversial, "unsafe": self.on_unsafe}
        return least.get(severity, "allow")


def severest(actions: Iterable[Action]) -> Action:
    """Return the severest of some actions."""
    return max(actions, key=SEVEREST.index)
