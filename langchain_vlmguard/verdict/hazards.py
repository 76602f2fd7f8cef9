"""The hazard taxonomy verdicts speak: MLCommons AILuminate keys, with Llama Guard's numbers as aliases."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True)
class HazardCategory:
    """One category of the taxonomy."""

    id: str
    """Namespaced id, e.g. `"mlcommons:iwp"`."""

    title: str
    """Readable name, fit for a message to a person."""

    alias: str
    """The closest Llama Guard 4 category, namespaced: bare S-numbers mean other things in other lists."""


_ROWS = (
    ("vcr", "violent crimes", "S1"),
    ("ncr", "non-violent crimes", "S2"),
    ("src", "sex-related crimes", "S3"),
    ("cse", "child sexual exploitation", "S4"),
    ("dfm", "defamation", "S5"),
    ("spc", "specialised advice", "S6"),
    ("prv", "privacy", "S7"),
    ("ipv", "intellectual property", "S8"),
    ("iwp", "indiscriminate weapons", "S9"),
    ("hte", "hate", "S10"),
    ("ssh", "suicide and self-harm", "S11"),
    ("sxc", "sexual content", "S12"),
)

HAZARDS = MappingProxyType(
    {
        f"mlcommons:{key}": HazardCategory(f"mlcommons:{key}", title, f"llamaguard4:{alias}")
        for key, title, alias in _ROWS
    }
)
"""The twelve categories of AILuminate v1.0 by id."""


def known(hazard: str) -> str:
    """Return the id; one that claims to be MLCommons' must be among the twelve, so that no rule waits for a typo.

    Raises:
        ValueError: The id is in MLCommons' namespace and not in its list.
    """
    if hazard.startswith("mlcommons:") and hazard not in HAZARDS:
        msg = f"it is not one of MLCommons' hazards: {', '.join(HAZARDS)}"
        raise ValueError(msg)
    return hazard


def title_of(hazard: str) -> str:
    """Return a hazard's readable name; an id of another list is returned as it is."""
    return HAZARDS[hazard].title if hazard in HAZARDS else hazard


def titles_of(hazards: Iterable[str], called: Callable[[str], str] = title_of) -> list[str]:
    """Return the readable names of some hazards, each once; signals of our own are no category, and are left out."""
    return list(dict.fromkeys(called(hazard) for hazard in hazards if not hazard.startswith("vlmguard:")))
