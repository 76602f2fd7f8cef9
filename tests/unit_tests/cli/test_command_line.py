"""What a person in trouble sees of `vlmguard`."""

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
