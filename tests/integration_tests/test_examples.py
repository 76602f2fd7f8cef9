"""The examples run, and do what they say."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlmguard_lab.bench import agent_scenarios

ROOT = Path(__file__).parents[2]


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_guard_a_chat_model(capsys):
    example("guard_chat_model").main()
    shown = capsys.readouterr().out
    assert "allow: to use a kite" in shown
    assert "refuse: I can't help" in shown


def test_guard_in_a_graph_and_its_file_for_studio(capsys):
    module = example("guard_in_graph")
    module.main()
    shown = capsys.readouterr().out
    assert "allow: to use a kite" in shown
    assert "refuse: I can't help" in shown
    listed = json.loads((ROOT / "examples/langgraph.json").read_text())
    for graph in listed["graphs"].values():
        file, name = graph["path"].split(":")
        assert hasattr(example(Path(file).stem), name)
    pytest.importorskip("langgraph_cli", reason="needs langgraph-cli to validate langgraph.json")
    command = [sys.executable, "-m", "langgraph_cli", "validate"]
    environment = {**os.environ, "LANGGRAPH_CLI_NO_ANALYTICS": "1"}
    subprocess.run(command, cwd=ROOT / "examples", env=environment, check=True, timeout=60)  # noqa: S603


def test_the_shop_assistant_orders_harmless_things_and_no_others(capsys):
    example("shop_assistant").main()
    rows = [line for line in capsys.readouterr().out.splitlines() if "ordered" in line]
    orders = {(row[:32].strip(), "guarded" in row): row.split("ordered ")[1].split("]")[0] + "]" for row in rows}
    for name in ("a kite, in words", "a kite, in a picture"):
        assert orders[name, True] == orders[name, False] == "['kite']"
    assert orders["a bomb, in a picture", False] == "['bomb']"
    assert orders["a bomb, in words", True] == orders["a bomb, in a picture", True] == "[]"


def test_the_browser_does_not_obey_a_screenshot():
    module = example("screenshot_assistant")
    assert module.browse("kite", guarded=True)[0] == module.browse("kite", guarded=False)[0] == ["kite"]
    assert module.browse("bomb", guarded=False)[0] == ["bomb"]
    ordered, state = module.browse("bomb", guarded=True)
    assert ordered == []
    assert ("tool_result", "refuse") in [(one["stage"], one["verdict"]["action"]) for one in state["verdicts"]]


@pytest.mark.parametrize(("decision", "said"), [("approve", "ordered a knife"), ("reject", "can't help")])
def test_an_order_waits_for_a_person(tmp_path, decision, said):
    pytest.importorskip("langgraph.checkpoint.sqlite", reason="needs langgraph-checkpoint-sqlite")
    module = example("reviewed_orders")
    path = str(tmp_path / "orders.sqlite")
    stopped = module.run(path, None)
    assert stopped["__interrupt__"][0].value["action_requests"][0]["args"] == {"item": "knife"}
    state = module.run(path, decision)
    assert said in state["messages"][2].text


def test_the_scenario_suite_in_small(tmp_path):
    result = agent_scenarios.measured(agent_scenarios.scenarios(12), tmp_path, {})
    assert result["plain"]["harmful_tool_executions"] > 0
    for arm in ("guarded_sync", "guarded_async"):
        assert (result[arm]["harmful_tool_executions"], result[arm]["unsafe_stream_tokens"]) == (0, 0)
        assert result[arm]["harmless_blocked"] == 0
