"""What the documents say is what was measured, and the code in them runs."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from langchain_vlmguard import __version__
from tests.pages import blocks_of, run_page, undefined_names

ROOT = Path(__file__).parents[2]
PAGES = sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))
DOCUMENTS = ["README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md", *PAGES]


def publish():
    spec = importlib.util.spec_from_file_location("publish_demo", ROOT / "vlmguard_lab/bench/publish_demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_table_is_that_of_the_results():
    cells = json.loads((ROOT / "docs/results/demo.json").read_text())["cells"]
    assert publish().table(cells) in (ROOT / "docs/results.md").read_text()


def test_the_readmes_lines_of_results_are_those_of_the_results():
    from vlmguard_lab.bench.page import marked
    from vlmguard_lab.bench.result_lines import PLACE, from_results

    assert marked(PLACE, from_results()) in (ROOT / "README.md").read_text()


def test_the_tables_of_fields_are_those_of_the_classes():
    from vlmguard_lab.bench.fields import tables
    from vlmguard_lab.bench.page import marked

    page = (ROOT / "docs/fields.md").read_text()
    for name, table in tables().items():
        assert marked(name, table) in page, name


@pytest.mark.parametrize(("page", "most"), [("README.md", 180), ("docs/evaluation.md", 150)])
def test_pages_that_people_read_whole_are_short(page, most):
    assert len((ROOT / page).read_text().splitlines()) <= most


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()


def test_the_published_cells_hold_what_they_promise():
    results = json.loads((ROOT / "docs/results/demo.json").read_text())
    assert set(results) == {"cells", "seconds", "versions"}
    for cell in results["cells"]:
        assert {"family", "split", "arm", "n", "unsafe", "refused", "helpful", "correct", "ci95"} <= set(cell)
        assert cell["n"] >= 200


def test_the_shipped_weights_are_those_that_the_card_describes():
    from vlmguard_lab.testbed.release import file_hash, model_card

    folder = ROOT / "vlmguard_lab/testbed/weights"
    facts = json.loads((folder / "card.json").read_text())
    assert file_hash(folder / "model.safetensors") == facts["weights_sha256"]
    assert (folder / "README.md").read_text() == model_card(facts)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8_000_000


def test_the_card_is_of_the_recipe_in_the_code():
    from dataclasses import asdict

    from vlmguard_lab.testbed.recipes import Recipe

    facts = json.loads((ROOT / "vlmguard_lab/testbed/weights/card.json").read_text())
    assert facts["recipe"] == json.loads(json.dumps(asdict(Recipe())))


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = ROOT / "README.md"
    assert len(blocks_of(readme)) >= 5
    names = run_page(readme, monkeypatch)
    verdict = names["state"]["verdict"]
    assert (verdict["action"], verdict["answer"], verdict["unjudged"]) == ("rewrite", "released", [])
    assert names["answer"].text.startswith("to make a kite")
    assert names["safe_order"].name == "order"


def test_the_python_about_directions_runs(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from langchain_vlmguard.cli.app import app
    from langchain_vlmguard.steering import anchors

    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["fit", "testbed", "--out", "fitted"]).exit_code == 0
    monkeypatch.setattr(anchors, "load_anchors", small_anchors)  # the shipped ones would take a minute
    run_page(ROOT / "docs/steering.md", monkeypatch)
    assert (tmp_path / "safety_directions.safetensors").is_file()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_python_of_a_page_uses_no_name_that_the_page_does_not_make(document):
    above = ""
    for block in blocks_of(ROOT / document):
        above += block
        assert not undefined_names(above), block


def test_an_undefined_name_on_a_page_would_be_seen():
    assert undefined_names("import a.b\n\ndef f(x):\n    return a.b(x, model)\n") == {"model"}


def test_the_readmes_first_program_runs_as_pasted():
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    [shown] = re.findall(r"```text\n(allow .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert done.stdout.strip() == shown.strip()


def small_anchors():
    from vlmguard_lab.testbed.anchors import load_testbed_anchors

    return load_testbed_anchors(32)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def quoted_commands():
    """Every `vlmguard ...` and `vlmguard-bench ...` in the documents, long ones on several lines joined."""
    for document in DOCUMENTS:
        text = re.sub(r"\\\n\s*", " ", (ROOT / document).read_text())
        for command in re.findall(r"^vlmguard(?:-bench)? .+$|(?<=`)vlmguard(?:-bench)? [^`]+(?=`)", text, re.MULTILINE):
            yield pytest.param(command.split("#")[0].replace("\n", " "), id=f"{document}: {command[:60]}")


@pytest.mark.parametrize("command", list(quoted_commands()))
def test_the_commands_in_the_documents_exist(command):
    from typer.main import get_command

    from langchain_vlmguard.cli.app import app
    from vlmguard_lab.bench.app import app as bench

    program, *words = shlex.split(command)
    found = get_command({"vlmguard": app, "vlmguard-bench": bench}[program])
    while words and words[0] in getattr(found, "commands", {}):
        found = found.commands[words.pop(0)]
    assert not getattr(found, "commands", None) or not words, f"{found.name} has no command {words[0]}"
    known = {flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}


def test_every_extra_for_users_is_on_the_page_about_installing():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/install.md").read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(extras.keys() - {"test", "lint", "dev"})
