"""YAML as people expect it: `on` and `off` are words, and every field has a line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import extra

with extra("serve"):
    import yaml

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Loader(yaml.SafeLoader):
    """The safe loader with the booleans of YAML 1.2: in 1.1 the field `on` would be called `True`."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class's form
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), [*"tTfF"]
)


def parsed(text: str) -> object:
    """Return what a YAML text holds.

    Raises:
        YAMLError: It is not YAML.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader


def line_of(text: str, loc: Sequence[int | str]) -> int | None:
    """Return the line of a field, counted from 1; of what it would stand in, if it is missing.

    Args:
        text: The file.
        loc: The field's place, as pydantic tells it: it may also hold the names of a union's members, which are in no file.
    """
    node = yaml.compose(text, Loader=_Loader)
    if node is None:
        return None
    line: int = node.start_mark.line
    for step in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == step), None)
            if found is not None:
                line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line
    return line + 1
