"""Rules in plain words: hazards of an assistant's owner, told to whoever judges by reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from langchain_vlmguard.verdict.records import HazardId

if TYPE_CHECKING:
    from collections.abc import Iterable

_TAKEN = ("mlcommons:", "vlmguard:")
_TOLD = """\


These rules hold, too. A turn that asks to break one, or an answer that breaks it, is a threat, and its hazard is the rule's id:
{rules}"""


class Rule(BaseModel):
    """What an assistant must not do, in the words of its owner.

    ??? example "Prices of others"

        ```python
        rule = Rule(id="acme:pricing", text="Do not quote prices of competitors.", on="refuse")
        policy = GuardPolicy(rules=[rule])
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: HazardId
    """The hazard's id in verdicts: a name of yours, a colon, and the rule's name, such as `acme:pricing`."""

    text: str = Field(min_length=1, max_length=400, pattern=r"\S")
    """The rule, as one would tell it to a new colleague."""

    on: Literal["allow", "review", "refuse"] = "refuse"
    """Least action for what breaks the rule; `allow` leaves it to the rewriter, which may rewrite the prompt."""

    title: str = Field(default="", max_length=80)
    """What a refusal calls the rule, such as `prices of competitors`; the rule's name if it is empty."""

    @field_validator("id")
    @classmethod
    def _is_not_taken(cls, given: str) -> str:
        if given.startswith(_TAKEN):
            msg = f"ids that begin with {' or '.join(_TAKEN)} are taken: give a name of yours, such as acme:pricing"
            raise ValueError(msg)
        return given

    @property
    def called(self) -> str:
        """The rule's name for people."""
        return self.title or self.id.partition(":")[2].replace("-", " ").replace("_", " ")


def told(rules: Iterable[Rule]) -> str:
    """Return rules as a paragraph for whoever judges by reading; nothing if there are none."""
    lines = [f"- {rule.id}: {' '.join(rule.text.split())}" for rule in rules]
    return _TOLD.format(rules="\n".join(lines)) if lines else ""
