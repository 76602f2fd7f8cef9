"""What a request asks of the workers: one strict JSON text in `vllm_xargs`, and the digest that names it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal, NoReturn, get_args

from langchain_vlmguard.errors import RowSettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEY = "vlmguard"
"""Our one key: in a request's `extra_args`, an engine's `additional_config` and an answer's `kv_transfer_params`."""

OP_VERSION = 1
"""Goes up whenever the edit in the graph changes what it computes."""

Do = Literal["nothing", "read", "gated", "steer"]
"""`nothing` leaves the row plain, `read` reads its gate, `gated` lets the gate open the row's own edit, `steer` edits with a
strength that another reading gave."""


@dataclass(frozen=True)
class RowSettings:
    """What is done to one row."""

    do: Do
    directions: str = ""
    """Name of the directions, as the engine was started with."""

    digest: str = ""
    """`SafetyDirections.hash`: a name never stands for other directions than the caller means."""

    layers: tuple[int, ...] = ()
    intervention: str = ""
    alpha: float = 1.0
    max_scale: float | None = None
    gate: str = ""
    position: float | None = None
    gate_layer: int | None = None
    picture: bool = False
    decode: bool = True
    strength: float | None = None
    """For `steer`: 0 leaves the row as it is."""

    reference: tuple[tuple[float, ...], ...] | None = None
    """For `steer`: coordinates of the text-only query at each of `layers`, for interventions that need them."""

    @classmethod
    def parse(cls, given: object) -> RowSettings:
        """Read a request's settings.

        Raises:
            RowSettingsError: They are not one JSON text of this form; the message names the field.
        """
        if not isinstance(given, str):
            refuse(f"must be one JSON text, not {type(given).__name__}")
        try:
            read = json.loads(given, parse_constant=_no_constant)
        except ValueError as error:
            refuse(f"is no JSON: {error}")
        if not isinstance(read, dict):
            refuse("must be a JSON object")
        if unknown := sorted(read.keys() - {field.name for field in fields(cls)}):
            refuse(f"has fields that are not known: {', '.join(unknown)}")
        if read.get("do") not in get_args(Do):
            refuse(f"needs do: one of {', '.join(get_args(Do))}")
        make: Callable[..., RowSettings] = cls
        settings = make(**{name: _checked(name, value) for name, value in read.items()})
        settings.check()
        return settings

    def check(self) -> None:
        """Check what the fields need of each other.

        Raises:
            RowSettingsError: One is missing, or two do not go together.
        """
        reads = self.do in ("read", "gated")
        if self.do != "nothing" and not (self.directions and self.digest):
            refuse("names no directions, or not their digest")
        if reads and (self.gate_layer is None or not self.gate):
            refuse(f"do {self.do!r} needs gate and gate_layer")
        if self.edits and not (self.layers and self.intervention):
            refuse(f"do {self.do!r} needs layers and intervention")
        if self.do == "gated" and self.gate_layer is not None and self.gate_layer > min(self.layers):
            refuse("a gate above the first edited layer cannot open its own edit: read it in a request before this one")
        if (self.do == "steer") != (self.strength is not None):
            refuse("strength belongs to do 'steer', and nowhere else")
        if self.reference is not None and (self.do != "steer" or len(self.reference) != len(self.layers)):
            refuse("reference belongs to do 'steer', with one entry a layer")

    @property
    def edits(self) -> bool:
        """Whether the row may be edited."""
        return self.do in ("gated", "steer")

    def render(self) -> str:
        """Return the settings as the text that `parse` reads."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        default = RowSettings(do=self.do)
        kept = {name: value for name, value in given.items() if name == "do" or value != getattr(default, name)}
        return json.dumps(kept, sort_keys=True)

    @property
    def identity(self) -> str:
        """First 16 hex digits of the SHA-256 over everything that is done to the row, and the version of the edit."""
        text = json.dumps([OP_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def salt(self, given: str | None) -> str | None:
        """Return the salt of the row's prefix cache, joined to the caller's own; a row that nothing edits is the plain row."""
        if not self.edits or self.strength == 0:
            return given
        return hashlib.sha256(json.dumps([KEY, self.identity, given]).encode()).hexdigest()


def _checked(name: str, value: object) -> object:
    """Return a field's value in its own type; JSON has neither tuples nor a difference of `1` and `1.0`."""
    match name, value:
        case (("decode" | "picture"), bool()):
            found: object = value
        case (("do" | "directions" | "digest" | "intervention" | "gate"), str()):
            found = value
        case "gate_layer", int() if not isinstance(value, bool) and value >= 0:
            found = value
        case "layers", list() if value and all(type(one) is int and one >= 0 for one in value):
            found = tuple(value)
        case "strength", float() | int() if _number(value) and 0 <= value <= 1:
            found = float(value)
        case (("alpha" | "position" | "max_scale"), float() | int()) if _number(value):
            found = float(value)
        case "reference", list() if all(isinstance(one, list) and all(map(_number, one)) for one in value):
            found = tuple(tuple(float(part) for part in one) for one in value)
        case _:
            refuse(f"field {name!r} cannot be {value!r}")
    return found


def _number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


def _no_constant(name: str) -> float:
    msg = f"{name} is no number"
    raise ValueError(msg)


def refuse(said: str) -> NoReturn:
    """Refuse a request's settings.

    Raises:
        RowSettingsError: Always.
    """
    msg = f"vllm_xargs[{KEY!r}] {said}"
    raise RowSettingsError(msg)


def settings_of(extra_args: Mapping[str, object] | None, *, armed: bool, unmarked: str) -> RowSettings:
    """Return what a request asks for, in the engine core, where every request passes.

    Args:
        extra_args: The request's own.
        armed: Whether the engine was started with directions of ours.
        unmarked: What a request without settings is: `"refuse"`, or settings as text (the operator's default).

    Raises:
        RowSettingsError: There are none and the operator gave no default, they cannot be read, or the engine is not armed.
    """
    given = (extra_args or {}).get(KEY)
    if not armed:
        if given is None:
            return RowSettings("nothing")
        refuse("was given, and this engine was started without additional_config['vlmguard']: nothing would be steered")
    if given is None and unmarked == "refuse":
        refuse(
            f"is missing, and this engine answers nothing without it; a plain row is {RowSettings('nothing').render()}"
        )
    return RowSettings.parse(unmarked if given is None else given)
