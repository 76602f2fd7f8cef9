"""The command line of what is measured, the commands in the documents, and the facts of a run."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from vlmguard_lab.bench import page
from vlmguard_lab.bench.app import app
from vlmguard_lab.facts import run_facts

DOCUMENTS = [page.README, page.ROOT / "CHANGELOG.md", *sorted(page.DOCS.glob("*.md")), page.ROOT / "Makefile"]
DOCUMENTS += [page.ROOT / "vlmguard_lab/targets/README.md", page.ROOT / "vlmguard_lab/testbed/weights/README.md"]


def leaves(command, path=()):
    """Every command below a group, with its path."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, (*path, name)) if getattr(inner, "commands", None) else [((*path, name), inner)]


COMMANDS = dict(leaves(get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_command_says_what_it_measures_how_long_it_takes_and_what_it_writes(path):
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert re.search(r"\bTakes\b", result.output)
    assert re.search(r"\bWrites?\b|\bwrites\b", result.output)
    parameters = COMMANDS[path].params
    assert all(parameter.help for parameter in parameters), [one.name for one in parameters if not one.help]


def test_asking_for_help_is_light():
    script = (
        "import sys, vlmguard_lab.bench.app; sys.exit(bool({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603


def test_our_own_errors_are_sentences():
    result = CliRunner().invoke(app, ["architectures", "no-such-family"])
    assert result.exit_code == 2
    assert "there is no model for no-such-family" in result.output


def quoted(pattern):
    found = []
    for path in DOCUMENTS:
        text = re.sub(r"\\\n\s*", " ", path.read_text())
        name = path.relative_to(page.ROOT)
        found += [pytest.param(one, id=f"{name}: {one[:60]}") for one in re.findall(pattern, text, re.MULTILINE)]
    return found


@pytest.mark.parametrize("target", quoted(r"(?:^|`)make ([a-z-]+)(?:`|\s*#|\s*$| \()"))
def test_every_make_target_in_the_documents_exists(target):
    assert re.search(rf"^{target}:", (page.ROOT / "Makefile").read_text(), re.MULTILINE), target


def program_of(module, words):
    """The command that a module runs: its `main`, or for a package with an `app` the subcommand that is named."""
    if find_spec(module).submodule_search_locations is not None:
        return get_command(import_module(f"{module}.app").app).commands[words[0]]
    program = typer.Typer()
    program.command()(import_module(module).main)
    return get_command(program)


@pytest.mark.parametrize("command", quoted(r"python -m ((?:vlmguard_lab|tests)\.[^`\n#)]*)"))
def test_every_module_that_the_documents_run_exists_and_knows_its_options(command):
    module, *words = shlex.split(command)
    assert find_spec(module), module
    known = {flag for parameter in program_of(module, words).params for flag in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("command", quoted(r"\$\(BIN\)/(?:python -m vlmguard_lab\.|vlmguard-)bench ([^;\n]*)"))
def test_every_measurement_that_make_runs_exists(command):
    words = command.split()
    name, options = words[0], {word for word in words[1:] if word.startswith("--")}
    assert options <= {flag for parameter in COMMANDS[name,].params for flag in parameter.opts}


def test_no_document_names_a_script_that_is_gone():
    for path in DOCUMENTS:
        for name in re.findall(r"\bvlmguard_lab/[\w/]+\.py|\bbench(?:marks)?/\w+\.py", path.read_text()):
            assert (page.ROOT / name).is_file(), f"{path.name}: {name}"


def test_the_facts_of_a_run_say_when_where_and_with_what():
    facts = run_facts("pytest", "a-package-that-nobody-has")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts["date"])
    assert re.match(r"\d+ CPU cores \(\w+\)", facts["machine"])
    assert {"langchain_vlmguard", "python", "torch", "transformers", "langchain-core", "pytest"} == set(
        facts["versions"]
    )


def test_every_module_of_the_bench_is_under_the_type_checker():
    assert (
        "bench" not in (Path(page.ROOT) / "pyproject.toml").read_text().partition("[tool.mypy]")[2].partition("\n[")[0]
    )


@pytest.mark.parametrize("path", [("carriers",), ("faces",), ("outside-tools", "publish")], ids=" ".join)
def test_away_from_its_checkout_a_measurement_says_so_before_it_begins(path, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "ROOT", tmp_path)
    result = CliRunner().invoke(app, [*path])
    assert result.exit_code == 2
    assert "clone it" in result.output
    assert CliRunner().invoke(app, [*path, "--help"]).exit_code == 0
