"""What a person in trouble sees of `vlmguard`."""

import sys

import pytest
from typer.testing import CliRunner

from langchain_vlmguard import __version__
from langchain_vlmguard.cli.app import app

PROGRAM = """
from langchain_core.runnables import RunnableLambda
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_vlmguard import *

def raises(messages):
    raise RuntimeError("wrong key")

model = FakeListChatModel(responses=["fine"])
good = RunnableLambda(lambda messages: Rewrite(threats=[], intent="", action="allow", risk=0.0))
harsh = Guard(RunnableLambda(lambda messages: Rewrite(threats=[], intent="", action="refuse", risk=0.9)))
guard = Guard(good)
middleware = VLMGuardMiddleware(good, tools=["order"])
graph = create_vlm_guard(model, good)
compiled = graph.compile()
node = VLMGuardNode(good)
chat = GuardedChatModel(model=model, rewriter=good)
broken = Guard(RunnableLambda(raises))
number = 3

def factory():
    return broken
"""


def run(*words):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


@pytest.fixture
def program(tmp_path, monkeypatch):
    (tmp_path / "guarded_program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "guarded_program"


@pytest.mark.parametrize("name", ["guard", "middleware", "graph", "compiled", "node", "chat"])
def test_three_harmless_probes_pass_a_healthy_guard(program, name):
    result = run("doctor", "--guard", f"{program}:{name}")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.output.splitlines()] == ["ok"] * 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "RuntimeError: wrong key. What to do"),
        ("factory", "RuntimeError: wrong key. What to do"),
        ("harsh", "a harmless probe was refused (risk 0.9"),
    ],
)
def test_a_guard_that_refuses_everything_says_why(program, name, said):
    result = run("doctor", "--guard", f"{program}:{name}")
    assert result.exit_code == 1
    assert result.output.count(said) == 3


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("guarded_program:number", 1, "not int"),
        ("guarded_program:nope", 2, "has no 'nope'"),
        ("no_such_program:guard", 2, "there is no module 'no_such_program'"),
        ("guarded_program", 2, "write module:object"),
    ],
)
def test_what_is_no_guard_is_named(program, name, code, said):
    result = run("doctor", "--guard", name)
    assert (result.exit_code, said in result.output) == (code, True)


def test_the_version():
    assert run("--version").output.strip() == f"langchain-vlmguard {__version__}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "nope"], "no suite 'nope'"),
        (["--suite", "xstest:/no/such/folder"], "no such folder"),
        (["--suite", "testbed", "--arms", "nope"], "no arm 'nope'"),
        (["--suite", "testbed", "--judge", "nope"], "'nope' is not known"),
        (["--suite", "testbed", "--seeds", "a"], "no list of whole numbers"),
    ],
)
def test_a_wrong_evaluation_is_named_before_weights_are_loaded_and_leaves_nothing(words, said, tmp_path):
    out = tmp_path / "out"
    result = run("evaluate", "--model", str(tmp_path / "no_model"), "--out", str(out), *words)
    assert (result.exit_code, said in result.output) == (2, True)
    assert not out.exists()


def test_an_error_is_one_line(tmp_path):
    result = run("rewriter", "train", str(tmp_path / "nothing"), str(tmp_path / "out"))
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope"], "No such command 'nope'; see root --help"),
        (["evaluate"], "Missing option '--suite'; see root evaluate --help"),
        (["evaluate", "--suite", "testbed", "--limit", "a"], "Invalid value for '--limit'"),
        (["demo", "--perr-cell", "3"], "No such option: --perr-cell"),
        (["doctor"], "name a model, or a guard"),
        (["rewriter", "nope"], "No such command 'nope'; see root rewriter --help"),
        (["rewriter", "synthesize", "testbed", "out", "--without", "it"], "'it' is not one of"),
        (["rewriter", "synthesize", "/nope", "out"], "/nope is no file"),
        (["rewriter", "synthesize", "testbed", "out", "--analyst", "openai:gpt-4o"], "leave out --analyst"),
        (["rewriter", "synthesize", "testbed", "out", "--pictures", "keep"], "leave out --pictures"),
        (["evaluate", "--suite", "testbed", "--judge-model", "nobody:x"], "--judge-model 'nobody:x' names no provider"),
    ],
)
def test_a_wrong_command_line_is_one_plain_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_items_needs_models_that_exist(tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text('{"prompt": "How do I make a kite?"}\n')
    models = ["--analyst", "nobody:x", "--target", "nobody:x"]
    result = run("rewriter", "synthesize", str(items), str(tmp_path / "out"), *models)
    assert (result.exit_code, "--analyst 'nobody:x' names no provider" in result.stderr) == (2, True)
    items.write_text('{"prompt": 1\n')
    result = run("rewriter", "synthesize", str(items), str(tmp_path / "out"), *models)
    assert (result.exit_code, "line 1 is no item" in result.stderr, result.stderr.count("\n")) == (1, True, 1)
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_named_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    result = run("rewriter", "train", str(tmp_path), str(tmp_path / "out"))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "pip install 'langchain-vlmguard[train]'" in result.stderr


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    result = run("demo", "--model", str(tmp_path / "nope"), "--html", str(tmp_path / "page/index.html"))
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "there is no folder" in result.stderr
    assert not (tmp_path / "page").exists()
