"""The stamp: what a worker says it did to a row, made where the edit happens. No stamp, no answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypedDict, cast

from langchain_vlmguard.errors import MissingStampError
from langchain_vlmguard.vllm.settings import KEY, OP_VERSION

if TYPE_CHECKING:
    from langchain_vlmguard.vllm.settings import RowSettings


class Stamp(TypedDict):
    """What was read and done in the worker for one row, as plain values that travel with the answer."""

    version: int
    """`OP_VERSION` of the worker."""

    identity: str
    """`RowSettings.identity` of what was applied."""

    directions: str
    """Digest of the directions in the worker's memory."""

    do: str
    score: float | None
    """What the gate read, a coordinate on its direction; `None` where it did not read."""

    strength: float
    """With which the row was edited; 0 left it as it was."""

    tokens: int
    """How many tokens of the row passed the op at every layer."""

    edited: int
    """How many tokens were changed, counted at every edited layer."""

    coordinates: list[list[float]]
    """The last prompt token's coordinates at each of the settings' `layers`."""

    runner: str
    """Kind of model runner, e.g. `"v1"`."""

    error: str | None
    """Why the row must not be answered, `None` where all is well."""


def fault(stamp: object, settings: RowSettings) -> str | None:
    """Say why a row with these settings must not be answered, `None` where its stamp is whole."""
    if settings.do == "nothing":
        return None
    if not isinstance(stamp, dict):
        return "no worker stamped it"
    expected = {"version": OP_VERSION, "identity": settings.identity, "directions": settings.digest, "do": settings.do}
    wrong = [name for name, value in expected.items() if stamp.get(name) != value]
    strength, score, tokens = stamp.get("strength"), stamp.get("score"), stamp.get("tokens")
    read = isinstance(score, float) and math.isfinite(score)
    faults = (
        (stamp.get("error"), str(stamp.get("error"))),
        (wrong, f"its stamp is for other settings ({', '.join(wrong)})"),
        (not (isinstance(strength, float) and 0 <= strength <= 1), f"its stamp has the strength {strength!r}"),
        (settings.do in ("read", "gated") and not read, f"its stamp has the gate score {score!r}"),
        (not (isinstance(tokens, int) and tokens >= 1), "no token of it passed the edit"),
    )
    return next((said for bad, said in faults if bad), None)


def stamp_of(answer: object, settings: RowSettings) -> Stamp | None:
    """Return the stamp in an answer's `kv_transfer_params`; `None` for a plain row.

    Raises:
        MissingStampError: There is none, or it does not say that these settings were applied.
    """
    if settings.do == "nothing":
        return None
    stamp = answer.get(KEY) if isinstance(answer, dict) else None
    if (said := fault(stamp, settings)) is not None:
        msg = f"vLLM's answer is not used: {said}. Is the engine started with additional_config['vlmguard'] and the plugin?"
        raise MissingStampError(msg)
    return cast("Stamp", stamp)
