"""The page of fields: what a policy may say and what a verdict says, from the classes themselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from langchain_vlmguard.verdict.hazards import HAZARDS
from langchain_vlmguard.verdict.policy import SHORT_NAMES, GuardPolicy
from langchain_vlmguard.verdict.records import SafetyVerdict
from vlmguard_lab.bench import page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

    from langchain_vlmguard.verdict.records import Json

PAGE = page.DOCS / "fields.md"
HEAD = ("field", "values", "default", "what it says")
_WORDS = {
    "number": "number",
    "integer": "whole number",
    "string": "text",
    "boolean": "`true`, `false`",
    "null": "`null`",
}


def run() -> None:
    """Write the tables."""
    page.place(PAGE, tables())


def tables() -> dict[str, str]:
    """Return every table of the page by the name of its marks."""
    hazards = ([f"`{one.id}`", one.title, f"`{one.alias}`"] for one in HAZARDS.values())
    return {
        "policy fields": _of(GuardPolicy, {path: name for name, path in SHORT_NAMES.items()}),
        "verdict fields": _of(SafetyVerdict, {}),
        "hazard ids": page.table(["id", "what it is", "Llama Guard's number"], hazards),
    }


def _of(model: type[BaseModel], short: dict[tuple[str, ...], str]) -> str:
    """Return a table for a class and one for each class that it holds."""
    schema = model.model_json_schema()
    parts = [page.table(HEAD, _rows(schema, short, ()))]
    for path, held in _held(schema):
        parts.append(f"**`{'.'.join(path)}`**: {_sentence(held)}\n\n{page.table(HEAD, _rows(held, short, path))}")
    return "\n\n".join(parts)


def _held(schema: Json) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Yield the schemas of classes that fields hold, with the names of the fields that lead there."""
    definitions = schema.get("$defs", {})

    def below(fields: Json, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Json]]:
        for name, field in fields.items():
            for reference in _references(field):
                held = definitions[reference]
                if "properties" in held:
                    yield (*path, name), held
                    yield from below(held["properties"], (*path, name))

    yield from below(schema["properties"], ())


def _references(field: object) -> Iterator[str]:
    """Yield the names of the classes in a field's schema."""
    if isinstance(field, dict):
        if "$ref" in field:
            yield field["$ref"].rpartition("/")[2]
        for value in field.values():
            yield from _references(value)
    elif isinstance(field, list):
        for value in field:
            yield from _references(value)


def _rows(schema: Json, short: dict[tuple[str, ...], str], path: tuple[str, ...]) -> Iterator[list[str]]:
    for name, field in schema["properties"].items():
        also = short.get((*path, name))
        shown = f"`{name}`" + (f", in short `{also}`" if also and also != name else "")
        default = f"`{json.dumps(field['default'], ensure_ascii=False)}`" if "default" in field else ""
        yield [shown, _values(field), default, " ".join(field["description"].split())]


def _values(field: Json) -> str:
    """Say in words what a field may hold."""
    if words := field.get("enum", [field["const"]] if "const" in field else []):
        return ", ".join(f"`{json.dumps(word)}`" for word in words)
    if "anyOf" in field:
        return " or ".join(_values(one) for one in field["anyOf"])
    if "$ref" in field:
        return "fields, below"
    kind = field.get("type")
    if kind == "array":
        return f"list: {_values(field['items'])}" if "items" in field else "list"
    if kind == "object":
        held = field.get("additionalProperties") or next(iter(field.get("patternProperties", {}).values()), None)
        return f"by name: {_values(held)}" if isinstance(held, dict) and held else "any JSON"
    said = _WORDS.get(str(kind), "any JSON")
    bounds = [field.get("minimum"), field.get("maximum")]
    return f"{said}, {bounds[0]:g} to {bounds[1]:g}" if None not in bounds else said


def _sentence(schema: Json) -> str:
    """Return the first sentence of a class's docstring."""
    return str(schema["description"]).partition("\n\n")[0].replace("\n", " ")
