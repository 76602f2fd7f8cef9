"""How the house is built: rooms, stairs, and the size of a file."""

import ast
import re
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE, LAB = "langchain_vlmguard", "vlmguard_lab"
STAIRS = [
    {"errors", "files", "plugins", "_version"},
    {"verdict"},
    {"content", "steering"},
    {"vllm"},
    {"models"},
    {"rewriting"},
    {"guard"},
    {"faces"},
    {"agents", "audit"},
    {"serving"},
    {"cli"},
]
"""A room imports from its own step and from those below it."""


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in chain(files(CORE), files(LAB))}


def imports_of(name):
    """Every import of a module: at its top, lazy, and for types only."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


IMPORTS = {
    name: {other for other in imports_of(name) if other in MODULES and not name.startswith(f"{other}.")} - {name}
    for name in MODULES
}


def step_of(name):
    room = name.removeprefix(f"{CORE}.").split(".")[0]
    return next(number for number, rooms in enumerate(STAIRS) if room in rooms)


def test_nothing_imports_in_a_circle():
    left = dict(IMPORTS)
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in circles, or above one: {sorted(left)}"


def test_the_core_never_imports_the_lab():
    assert not [name for name in MODULES if name.startswith(CORE) and any(i.startswith(LAB) for i in imports_of(name))]


def test_imports_go_downwards_only():
    inside = {name: others for name, others in IMPORTS.items() if name.startswith(f"{CORE}.")}
    upwards = [(name, other) for name, others in inside.items() for other in others if other != CORE]
    assert not [(name, other) for name, other in upwards if step_of(other) > step_of(name)]


def test_content_and_steering_do_not_know_of_each_other():
    for one, other in (("content", "steering"), ("steering", "content")):
        inside = [name for name in MODULES if name.startswith(f"{CORE}.{one}")]
        assert not [name for name in inside if any(i.startswith(f"{CORE}.{other}") for i in IMPORTS[name])]


def test_every_module_of_the_core_stands_in_a_room():
    assert len(list((ROOT / CORE).glob("*.py"))) <= 5
    for name in MODULES:
        if name.startswith(f"{CORE}."):
            step_of(name)


@pytest.mark.parametrize("package", [CORE, LAB, "examples"])
def test_no_file_is_long(package):
    assert not {str(path): n for path in files(package) if (n := len(path.read_text().splitlines())) > 450}


def test_the_guard_is_small():
    assert sum(len(path.read_text().splitlines()) for path in files(f"{CORE}/guard")) <= 1900


def test_types_are_named():
    words = [word for path in files(CORE) for word in re.findall(r"\bAny\b", path.read_text())]
    assert len(words) <= 440
