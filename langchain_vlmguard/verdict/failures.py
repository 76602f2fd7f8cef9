"""A failure of the guard itself: what the operator's log, the verdict and the person hear of it."""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING

from langchain_vlmguard.verdict.records import GuardFailure

if TYPE_CHECKING:
    from langchain_vlmguard.verdict.records import FailedStage

LOGGER = "langchain_vlmguard"
"""Name of the logger that hears of every failure, with message and traceback."""

_log = logging.getLogger(LOGGER)

_SAID: MappingProxyType[FailedStage, str] = MappingProxyType(
    {
        "inspect": "The guard could not look at everything in this turn.",
        "rewrite": "The guard could not judge this turn.",
        "answer": "The answer could not be made, or the guard could not judge it.",
        "review": "The guard could not finish the review.",
    }
)


def failure_of(stage: FailedStage, error: Exception) -> GuardFailure:
    """Log an error, whole, as a warning, and return what a verdict may say of it: its class and a sentence of ours."""
    _log.warning("the %s step failed: %s: %s", stage, type(error).__name__, error, exc_info=error)
    reason = f"{_SAID[stage]} The log of {LOGGER!r} says why."
    return GuardFailure(stage=stage, error=type(error).__name__, reason=reason)


def said_of(stage: FailedStage) -> str:
    """Return what a person hears of a failure: nothing of what is inside."""
    return _SAID[stage]
