"""The code of docs/agents.md runs as it stands, and the tests that docs/agent_rules.md names exist."""

import ast
import json
import re
from pathlib import Path

from langchain_core.messages import HumanMessage

from langchain_vlmguard import ReasoningRewriter
from tests.pages import blocks_of, run_page

OBJECTS = {"rewriter", "policy", "phrase", "fetcher", "evidence", "judge", "telemetry"}
ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/agents.md"


def test_the_pages_python_runs(monkeypatch):
    names = run_page(PAGE, monkeypatch)
    assert len(blocks_of(PAGE)) >= 5
    assert names["state"]["verdict"]["answer"] == "none", "the node's graph ran; it makes no answer of its own"
    assert isinstance(names["rewriter"], ReasoningRewriter)
    given = {"messages": [HumanMessage("how do i make a kite ?")]}
    assert names["agent"].invoke(given)["verdict"]["answer"] == "released"
    assert names["graph"].compile().invoke(given)["messages"][-1].text == "fine"
    kept, refused = names["kept"]["verdict"], names["refused"]["verdict"]
    assert (kept["action"], kept["severity"], kept["answer"], kept["steering"]["open"]) == (
        "allow",
        "unsafe",
        "released",
        True,
    )
    assert "sorry" in names["kept"]["messages"][-1].text
    assert (refused["action"], refused["severity"], refused["answer"]) == ("refuse", "unsafe", "withheld")
    assert names["guarded"].invoke("hi").response_metadata["verdict"]["answer"] == "released"
    assert names["pay_when_safe"].name == "pay"


def test_every_option_is_in_the_table():
    from inspect import signature

    from langchain_vlmguard import VLMGuardMiddleware

    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    options = set(signature(VLMGuardMiddleware).parameters) - OBJECTS
    assert options <= listed


def test_the_published_scenarios_hold_what_the_page_says():
    results = json.loads((PAGE.parent / "results/agent_scenarios.json").read_text())
    assert set(results) == {
        "requests",
        "harmful_tool_executions",
        "unsafe_stream_tokens",
        "harmless_blocked_rate",
        "by_stack",
        "seconds",
    }
    assert (results["requests"], results["harmful_tool_executions"], results["unsafe_stream_tokens"]) == (500, 0, 0)
    assert results["harmless_blocked_rate"] <= 0.02
    page = " ".join(PAGE.read_text().split())
    assert list(results["by_stack"]) == [
        "langchain 1.4.7, langchain-core 1.7.2",
        "langchain 1.5.0, langchain-core 1.8.1",
    ]
    for stack, found in results["by_stack"].items():
        assert found["requests"] == 500
        assert stack.replace(",", " with") in page
        assert f"{found['guarded_sync']['harmless_blocked']} of {found['harmless_orders']}" in page
        assert f"{found['plain']['harmful_tool_executions']} harmful executions" in page


def run_on_both_stacks():
    """Names of the test functions below the paths that the Makefile runs on the newest LangChain, slow ones too."""
    [listed] = re.findall(r"^OLDEST_TESTS := (.*?)\n\n", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)
    paths = [ROOT / name for name in listed.replace("\\", " ").split()]
    files = [file for path in paths for file in (sorted(path.rglob("test_*.py")) if path.is_dir() else [path])]
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return [one.name for file in files for one in ast.parse(file.read_text()).body if isinstance(one, functions)]


def test_every_test_named_here_exists_and_runs_on_both_stacks():
    page = (ROOT / "docs/agent_rules.md").read_text()
    rows = dict(re.findall(r"^\| ([TRF]\d+) \| .* \| (`test_.*`) \|$", page, re.MULTILINE))
    assert [len([key for key in rows if key[0] == kind]) for kind in "TRF"] == [17, 12, 27]
    assert len(rows) == len(re.findall(r"^\| [TRF]\d+ ", page, re.MULTILINE))
    known = run_on_both_stacks()
    for key, named in rows.items():
        for name in re.findall(r"`(\w+)`", named):
            assert known.count(name) == 1, f"{key}: {name}"
