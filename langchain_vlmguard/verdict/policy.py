"""What is done about what the guard finds: thresholds, actions, limits, and the words of a refusal."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from langchain_vlmguard.verdict.records import Action, HazardId, Risk, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

SEVEREST: tuple[Action, ...] = ("allow", "rewrite", "review", "refuse")
"""Actions from the mildest to the severest."""

ImageHost = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(:[0-9]{1,5})?$", to_lower=True, max_length=253
    ),
]
"""A host's name, with `*.` for its subdomains and with a port where it is not 443."""


class GuardPolicy(BaseModel):
    """A tenant's policy. Nothing in it can turn an unread part or a failed check into a pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    controversial_at: Risk = 0.3
    """Risk from which a turn is `controversial`."""

    unsafe_at: Risk = 0.7
    """Risk from which a turn is `unsafe`."""

    enabled_hazards: frozenset[HazardId] | None = None
    """Hazards that count; all when `None`. One that is off is still recorded; `on_hazard` and refusals pass over it."""

    on_hazard: dict[HazardId, Literal["allow", "review", "refuse"]] = Field(default_factory=dict)
    """Least action for single hazards, e.g. `{"mlcommons:spc": "review"}`."""

    on_controversial: Literal["allow", "review", "refuse"] = "allow"
    """Least action for a turn that the rewriter finds controversial and yet allows as it stands."""

    on_unsafe: Literal["allow", "review", "refuse"] = "refuse"
    """Least action for a turn that the rewriter finds unsafe and yet allows as it stands."""

    on_gate_open: Literal["keep", "refuse", "review"] = "keep"
    """What becomes of an answer given while the steering gate was open at `unsafe` risk. `keep`: the intervention acted."""

    on_gate_open_rewritten: Literal["keep", "refuse", "review"] | None = None
    """The same where the answer was to a rewritten prompt, as `on_gate_open` when `None`. A rewritten prompt names its hazard,
    and a gate opens at the name: `keep` trusts rewriter and intervention with it, and gives safe advice instead of refusals."""

    gate_unsafe_at: Risk | None = None
    """Gate risk from which `on_gate_open` acts, `unsafe_at` when `None`. `gate_judge.withholding_risk` finds it from harmless
    requests: a gate that reads words alone may take words that point at a picture ("what is this?") for unsafe."""

    on_hidden_request: Literal["allow", "review", "refuse"] = "refuse"
    """When words found in a picture of the turn would be `unsafe` if somebody had typed them (needs evidence)."""

    on_unsafe_answer: Literal["keep", "review", "refuse"] = "refuse"
    """When what the model was about to say is `unsafe` in words alone (needs a judge of answers, see `create_vlm_guard`)."""

    on_second_reading: Literal["ask", "review", "refuse"] = "ask"
    """When a second reader (see `create_vlm_guard`) would say something `unsafe` to a turn. A rewriter that was not asked yet is
    asked first, and `ask` takes its word; the others read once more what it lets pass. Without a rewriter, `ask` refuses."""

    judge_answers: Literal["always", "uncleared"] = "always"
    """Which answers are judged. `uncleared`: not those of turns that a gate or a probe cleared on the answer's own prefill (with
    `rewrite="adaptive"`; a probe with `"answer_first"`). It spares them the judge's prefill and trusts the gate alone,
    which a picture made for it gets past."""

    on_error: Literal["refuse", "review"] = "refuse"
    """When the rewriter or the model fails."""

    on_unreadable: Literal["refuse", "review"] = "refuse"
    """When a part of the turn cannot be read."""

    rewrite: Literal["always", "adaptive", "answer_first", "never"] = "always"
    """Whether a rewriter that is there is used. `adaptive`: a turn whose steering gate stays clearly closed and whose parts the
    gate has all read is answered from that same prefill, without the rewriter; a model without a gate makes it `always`.
    `answer_first`: the model answers unsteered, and the rewriter is asked unless that answer is `safe` in words alone; a guard
    without a judge of answers makes it `always`."""

    adaptive_pictures: Literal["rewrite", "skip"] = "rewrite"
    """With `adaptive`, whether a turn with pictures may skip the rewriter on the word of a gate that read its text alone (a
    probe that has read the pictures decides by itself). `skip` is faster and blind to harm that only the picture shows."""

    rewritten_pictures: Literal["keep", "drop"] = "keep"
    """Whether the turn's pictures are shown to the model beside a rewritten prompt. `drop` takes away the picture's pull, where
    the new prompt can stand alone; what a prompt that goes on unchanged shows is never dropped."""

    image_hosts: frozenset[ImageHost] = frozenset()
    """Hosts from which pictures are fetched by address, over https: `"img.example.com"`, `"*.example.com"` for subdomains,
    `"img.example.com:8443"` for another port. Addresses are refused when it is empty."""

    max_images: int = Field(default=8, ge=0)
    max_image_bytes: int = Field(default=10_000_000, gt=0)
    max_pixels: int = Field(default=40_000_000, gt=0)
    """Width times height, of all frames together where all are read."""

    max_image_ratio: float = Field(default=100.0, ge=1)
    """Longer edge of a picture over its shorter one."""

    max_frames: int = Field(default=16, ge=1)
    frames: Literal["refuse", "first", "all"] = "refuse"
    """Of an animated picture: nothing, the first frame, or each frame as a picture of its own. A model gets what was read."""

    heif: bool = False
    """Read HEIC and AVIF pictures too (extra `heif`)."""

    isolate_decoding: bool = False
    """Decode pictures in a process of its own, whose memory and seconds the operating system bounds."""

    max_text_chars: int = Field(default=100_000, gt=0)

    refusal: str = "I can't help with this request{about}. {safe_way}"
    """Template of a refusal; `{about}` names hazard categories, `{safe_way}` offers what can be done."""

    safe_way: str = "I am glad to help with a safe version of it: tell me what you want to achieve."

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.controversial_at > self.unsafe_at:
            msg = f"controversial_at ({self.controversial_at}) must not lie above unsafe_at ({self.unsafe_at})"
            raise ValueError(msg)
        if SEVEREST.index(self.on_controversial) > SEVEREST.index(self.on_unsafe):
            msg = f"on_unsafe ({self.on_unsafe!r}) must not be milder than on_controversial ({self.on_controversial!r})"
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
        for name in ("enabled_hazards", "image_hosts"):
            plain[name] = None if plain[name] is None else sorted(plain[name])
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds as they are written into verdicts."""
        gate = {} if self.gate_unsafe_at is None else {"gate_unsafe": self.gate_unsafe_at}
        return {"controversial": self.controversial_at, "unsafe": self.unsafe_at, **gate}

    @property
    def withholds(self) -> bool:
        """Whether an open gate can keep any answer back."""
        return {self.on_gate_open, self.on_gate_open_rewritten} - {None, "keep"} != set()

    def on_gate(self, risk: float, *, rewritten: bool) -> Literal["keep", "refuse", "review"]:
        """Return what becomes of an answer that was given while the gate was open at some risk."""
        if risk < (self.unsafe_at if self.gate_unsafe_at is None else self.gate_unsafe_at):
            return "keep"
        return self.on_gate_open_rewritten or self.on_gate_open if rewritten else self.on_gate_open

    def severity(self, risk: float) -> Severity:
        """Place a risk in [0, 1]."""
        if risk >= self.unsafe_at:
            return "unsafe"
        return "controversial" if risk >= self.controversial_at else "safe"

    def counts(self, hazard: str) -> bool:
        """Say whether a hazard may decide anything."""
        return self.enabled_hazards is None or hazard in self.enabled_hazards

    def decide(self, proposed: Action, risk: float, hazards: Iterable[str]) -> Action:
        """Return the rewriter's proposal, or something stricter where this policy asks for it."""
        actions: list[Action] = [proposed]
        if proposed == "allow":
            actions.append(self._least(self.severity(risk)))
        actions += [self.on_hazard[hazard] for hazard in hazards if hazard in self.on_hazard and self.counts(hazard)]
        return severest(actions)

    def _least(self, severity: Severity) -> Action:
        """Return the least action for a prompt of some severity that goes on unchanged."""
        least: dict[Severity, Action] = {"controversial": self.on_controversial, "unsafe": self.on_unsafe}
        return least.get(severity, "allow")


def severest(actions: Iterable[Action]) -> Action:
    """Return the severest of some actions."""
    return max(actions, key=SEVEREST.index)
