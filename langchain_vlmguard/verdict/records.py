"""What the guard says about one turn: the verdict, a plain dict in graph state and a checked model outside."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from langchain_vlmguard._version import __version__
from langchain_vlmguard.verdict.hazards import known

Json = dict[str, Any]
"""A JSON object."""

Action = Literal["allow", "rewrite", "refuse", "review"]
"""What the guard decided about the turn."""

Severity = Literal["safe", "controversial", "unsafe"]
Channel = Literal["textual", "visual", "cross_modal", "tool_result"]
CHECK = "check"
"""`Unjudged.kind` of a check that nobody made."""

AnswerFate = Literal["released", "replaced", "withheld", "none"]
"""What became of the model's answer: `none` when the model was not asked."""

Risk = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
HazardId = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9_]+:[A-Za-z0-9_.-]+$", max_length=64), AfterValidator(known)
]
"""Always namespaced; other lists reuse the bare codes. Ids in MLCommons' namespace are those of its list."""


class Record(BaseModel):
    """A frozen part of a verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Hazard(Record):
    """One safety category with the channel it came through."""

    id: HazardId
    """Namespaced, e.g. `"mlcommons:vcr"`."""

    channel: Channel
    """Where it came from."""

    rationale: str = Field(default="", max_length=500)
    """Why, in general terms; never the harmful text itself."""

    score: Risk | None = None
    """How sure its source is, in [0, 1]; `None` where the source gives no number."""

    alias: str | None = None
    """The same category in Llama Guard's numbers, e.g. `"llamaguard4:S1"`."""

    native: str | Json | None = None
    """The source's own label, untouched."""


class SecurityFinding(Record):
    """The other axis: attacks on the agent rather than harm to people."""

    kind: Literal["prompt_injection", "jailbreak", "exfiltration", "tool_misuse"]
    """What is attempted."""

    channel: Channel
    """Where it came from."""

    rationale: str = Field(default="", max_length=500)
    """Why, in general terms; never the harmful text itself."""


class Unjudged(Record):
    """A part of the turn that was seen but not judged, or a check that nobody made."""

    where: str
    """Place in the conversation, e.g. `"messages[2].content[0]"`; for a check `"request"`, `"answer"`, `"tool_args"` or
    `"tool_result"`."""

    kind: str
    """The block's type as written, or `"check"`."""

    reason: str
    """Why it was not judged."""

    @property
    def is_unread(self) -> bool:
        """Whether the part could not be read. An answer is never released beside one unless a person allowed it."""
        return self.kind != CHECK


class EvidenceNote(Record):
    """Something that a picture says, without its words: what it says was written by strangers."""

    where: str
    """Place of the picture in the conversation."""

    kind: Literal["text", "code", "metadata"]
    """Words, a QR code or barcode, or a field of the file."""

    found_by: str
    """The view of the picture, the format of the code, or the metadata field."""

    place: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom as shares of the picture's edges."""

    confidence: Risk = 1.0
    """How sure the reader is, in [0, 1]."""

    characters: int
    """How long the text is."""

    sha256: str
    """First 16 hex digits of the hash of the text, to find it again."""

    addresses_model: bool = False
    """Whether it speaks to an assistant rather than to people."""

    risk: Risk | None = None
    """Of the picture's words, judged as if somebody had typed them; `None` where nothing judged them."""


class VisualScore(Record):
    """What a classifier of pictures says about one label."""

    where: str
    """Place of the picture in the conversation."""

    model: str
    """Identity of the classifier."""

    label: str
    """The label, as the classifier writes it."""

    score: Risk
    """How sure it is, in [0, 1]."""

    threshold: Risk | None = None
    """Score from which the policy acts on this label; `None` where it does not."""

    hazard: HazardId | None = None
    """What the policy takes the label for."""

    @property
    def is_over(self) -> bool:
        """Whether the policy acts on it."""
        return self.threshold is not None and self.score >= self.threshold


class SteeringTrace(Record):
    """What steering did to the answer."""

    intervention: str
    """Name of the edit of the hidden states."""

    gate: str
    """Name of the gate that decides how strongly."""

    score: float
    """Coordinate of the clean prefill on the first direction."""

    threshold: float
    """Score above which the gate opens."""

    open: bool
    """Whether the gate was open."""

    strength: float
    """Factor of the edit; 0 where the gate was shut."""

    risk: Risk
    """The gate's score as a risk."""

    layers: list[int]
    """Decoder layers that were edited, from 0."""

    picture: bool
    """Whether the prompt showed a picture."""

    reads: Literal["input", "query", "both", "request"] = "input"
    """What the gate read: the prompt as it stands, its text without the picture, both, or the typed request alone, without
    system prompt, tools, history and pictures."""

    calibration: str | None = None
    """What the gate's threshold was placed on: `"anchors"`, or `"traffic:"` and a hash of requests of one's own."""


FailedStage = Literal["inspect", "rewrite", "answer", "review"]


class GuardFailure(Record):
    """A failure of the guard itself; kept apart from the decision."""

    stage: FailedStage
    """The step that failed."""

    error: str
    """Class name of the error."""

    reason: str = ""
    """A sentence of the guard's own: never the error's message, nor what a person wrote. The log has the rest."""


class Provenance(Record):
    """Who decided."""

    package_version: str = __version__
    """Version of this package."""

    model: str | None = None
    """Name of the model that answers."""

    rewriter: str | None = None
    """Identity of the rewriter that was asked, or `None`."""

    steering: str | None = None
    """Identity of directions, layers, gate and intervention."""

    directions: str | None = None
    """Hash of the directions."""

    anchors: str | None = None
    """Hash of the prompts from which the directions were fitted."""

    probe: str | None = None
    """Hash of the probe that read the whole turn, if one did."""

    evidence: str | None = None
    """Readers of the evidence, with versions."""

    answers: str | None = None
    """Identity of what judged the answer, where something did."""

    second_reader: str | None = None
    """Identity of the other model that was asked what it would answer, if there was one."""

    policy: str
    """Hash of the policy."""

    thresholds: dict[str, float] = Field(default_factory=dict)
    """The policy's thresholds, by name."""


class SafetyVerdict(Record):
    """The whole record of one guarded turn. It never echoes what a person or a document wrote."""

    action: Action
    """What the guard did."""

    risk: Risk | None = None
    """The highest risk that any check found; `None` if nobody judged the turn."""

    severity: Severity | None = None
    """The policy's word for the risk; `None` if nobody judged the turn, which is not "safe"."""

    hazards: list[Hazard] = Field(default_factory=list)
    """Categories of harm that were found."""

    security: list[SecurityFinding] = Field(default_factory=list)
    """Attacks on the agent that were found."""

    unjudged: list[Unjudged] = Field(default_factory=list)
    """Parts that could not be read, and checks that nobody made."""

    evidence: list[EvidenceNote] = Field(default_factory=list)
    """What the pictures of the conversation say, found without a model."""

    evidence_risk: Risk | None = None
    """Highest risk of what the turn's pictures say; `None` where nothing judged it."""

    visual: list[VisualScore] = Field(default_factory=list)
    """What classifiers say that the turn's pictures show."""

    answer_risk: Risk | None = None
    """Risk of what the model was about to say, judged in words alone; `None` where nothing judged it."""

    second_risk: Risk | None = None
    """Risk of what another model would have said, having read the turn's pictures for itself; `None` where none was asked."""

    withheld: list[str] = Field(default_factory=list)
    """SHA-256 of earlier turns' pictures that hold an unsafe request and were left out of what the model gets, and of PDF pages
    whose text layer says what they do not show and was left out."""

    intent: str | None = None
    """The rewriter's reconstruction of what the person really wants."""

    rewritten_prompt: str | None = None
    """What the model was asked instead, with action `rewrite`."""

    steering: SteeringTrace | None = None
    """What steering did to the answer; `None` where no steered model was asked."""

    answer: AnswerFate = "none"
    """What became of the model's answer; `none` if the model was not asked."""

    reviewed: Literal["approve", "edit", "reject"] | None = None
    """What a person decided, if one was asked."""

    enforced: bool = True
    """`False` in monitor mode; the action is then what *would* have happened."""

    failure: GuardFailure | None = None
    """What broke, if the guard itself failed."""

    reason: str = ""
    """One sentence for people: why this action."""

    provenance: Provenance
    """Who decided, with versions and hashes."""

    usage: dict[str, int] = Field(default_factory=dict)
    """Tokens of every model call of the turn, added up."""

    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds spent in each stage."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.enforced and self.action in ("refuse", "review") and self.answer == "released":
            msg = f"a verdict with action {self.action!r} cannot release the model's answer"
            raise ValueError(msg)
        if (self.action == "rewrite") != (self.rewritten_prompt is not None):
            msg = "a rewritten prompt goes with action 'rewrite', and with no other"
            raise ValueError(msg)
        unread = any(part.is_unread for part in self.unjudged)
        if self.enforced and unread and self.answer == "released" and self.reviewed is None:
            msg = "an answer cannot be released while parts of the turn are unread and nobody reviewed them"
            raise ValueError(msg)
        if (self.risk is None) != (self.severity is None):
            msg = "a risk and its severity go together: both are `None` if nobody judged the turn"
            raise ValueError(msg)
        return self

    def to_state(self) -> Json:
        """Return the verdict as a plain JSON-safe dict, as graph state keeps it."""
        return self.model_dump(mode="json")

    @classmethod
    def from_state(cls, state: Json) -> Self:
        """Check a dict from graph state and return the verdict.

        Raises:
            ValidationError: The dict is not a verdict.
        """
        return cls.model_validate(state)


def verdict_schema() -> Json:
    """Return the JSON Schema of a verdict."""
    return SafetyVerdict.model_json_schema(mode="serialization")
