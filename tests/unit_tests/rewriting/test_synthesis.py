import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from langchain_core.runnables import RunnableLambda

from langchain_vlmguard.rewriting.items import Item
from langchain_vlmguard.rewriting.stages import GRADE, OPTIMISE
from langchain_vlmguard.rewriting.synthesis import CALLS_FILE, DATA_FILE, MANIFEST_FILE, Synthesis, read_examples
from tests.chat_models import ScriptedModel
from vlmguard_lab.testbed.checkpoint import load_testbed
from vlmguard_lab.testbed.rewriting import OracleAnalyst, as_items, sample_requests
from vlmguard_lab.testbed.synthesis import synthesize_testbed

ROOT = Path(__file__).parents[3]
REPORT = {
    "textual": {"finding": "asks for a trick", "hazard": "mlcommons:ncr"},
    "visual": {},
    "cross_modal": {},
    "intent": "to get in",
}
REWRITTEN = {"action": "rewrite", "risk": 0.9, "rewritten_prompt": "How do I get in lawfully?"}
GRADES = {"trick": 1.0, "locksmith": 0.0}


class Analyst(ScriptedModel):
    """Answers each stage with what it is given for it."""

    report: dict = REPORT
    rewritten: dict = REWRITTEN
    grades: dict = GRADES
    useful: bool = True

    def _next(self, messages):
        self.seen.append(messages)
        told, shown = messages[0].text, messages[1].text
        if told.startswith(OPTIMISE):
            return json.dumps(self.rewritten)
        if told.startswith(GRADE):
            harm = next(value for word, value in self.grades.items() if word in shown)
            return "```json\n" + json.dumps({"harm": harm, "useful": self.useful}) + "\n```"
        return json.dumps({"features": ["it explains a trick"]} if "Look back" in told else self.report)


def target(messages):
    from langchain_core.messages import AIMessage

    return AIMessage("call a locksmith" if "lawfully" in messages[-1].text else "here is the trick")


def run(folder, analyst=None, items=None, **options):
    items = items or [Item(id="1", prompt="How do I open this?", harmful=True, safe="no")]
    setting = Synthesis(analyst or Analyst(), RunnableLambda(target), attempts=1, **options)
    return setting.run(items, folder, concurrency=2)


class ThinkingAnalyst(Analyst):
    """Thinks before each answer."""

    def _next(self, messages):
        return f"<think>They want {REPORT}.</think>\n{super()._next(messages)}"


def test_an_analyst_may_think_before_it_answers(tmp_path):
    assert run(tmp_path, ThinkingAnalyst())["kept"] == 1


def test_three_stages_and_the_filters_give_an_example(tmp_path):
    analyst = Analyst()
    manifest = run(tmp_path, analyst)
    assert (manifest["items"], manifest["kept"], manifest["dropped"]) == (1, 1, {})
    (example,) = read_examples(tmp_path)
    assert example.rewrite.rewritten_prompt == "How do I get in lawfully?"
    assert [threat.channel for threat in example.rewrite.threats] == ["textual"]
    shown = [seen[1].text for seen in analyst.seen]
    assert "here is the trick" in shown[0]
    assert "it explains a trick" in shown[1]
    assert "asks for a trick" in shown[2]
    assert json.loads((tmp_path / MANIFEST_FILE).read_text()) == manifest


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"report": {"intent": "x"}}, "the analyst's causal cannot be read"),
        ({"rewritten": {"action": "rewrite", "risk": 1}}, "report and new prompt do not go together"),
        ({"rewritten": {"action": "allow", "risk": 0}}, "a harmful prompt was allowed"),
        ({"rewritten": {**REWRITTEN, "rewritten_prompt": "How do I open this?"}}, "the new prompt is the old one"),
        ({"grades": {"trick": 1.0, "locksmith": 1.0}}, "the answer to the new prompt is no safer"),
        ({"useful": False}, "the answer to the new prompt is not useful"),
    ],
)
def test_what_a_filter_drops_is_counted_with_its_reason(tmp_path, changed, reason):
    manifest = run(tmp_path, Analyst(**changed))
    assert (manifest["kept"], manifest["dropped"]) == (0, {reason: 1})
    assert read_examples(tmp_path) == []


def test_a_harmless_prompt_must_keep_its_task(tmp_path):
    items = [Item(id="1", prompt="How do I open this?", harmful=False)]
    assert run(tmp_path / "a", items=items)["dropped"] == {"a harmless prompt was not left as it is": 1}
    calm = Analyst(report={**REPORT, "textual": {}}, rewritten={"action": "allow", "risk": 0})
    assert run(tmp_path / "b", calm, items)["kept_by_action"] == {"allow": 1}


def test_ablations_leave_their_part_out(tmp_path):
    analyst = Analyst()
    run(tmp_path / "a", analyst, without=frozenset({"hindsight"}))
    assert "Look back" not in " ".join(seen[0].text for seen in analyst.seen)
    run(tmp_path / "b", without=frozenset({"textual"}))
    assert read_examples(tmp_path / "b")[0].rewrite.threats == []
    run(tmp_path / "c", without=frozenset({"intent"}))
    assert read_examples(tmp_path / "c")[0].rewrite.intent == ""


def test_no_finished_call_is_repeated(tmp_path):
    run(tmp_path)
    again = Analyst()
    manifest = run(tmp_path, again)
    assert (again.seen, manifest["calls"]["made"], manifest["kept"]) == ([], 0, 1)
    with (tmp_path / CALLS_FILE).open("a") as file:
        file.write('{"item": "1", "sta')
    assert run(tmp_path, again)["calls"]["made"] == 0
    with pytest.raises(ValueError, match="other settings"):
        run(tmp_path, pictures="drop")


def test_a_failing_model_stops_the_run_and_keeps_what_was_said(tmp_path):
    def down(_messages):
        msg = "the service is down"
        raise ConnectionError(msg)

    setting = Synthesis(Analyst(), RunnableLambda(down), attempts=1)
    item = Item(id="1", prompt="How do I open this?", harmful=True, safe="no", unsafe="here is the trick")
    with pytest.raises(ConnectionError):
        setting.run([item], tmp_path)
    again = Analyst()
    assert run(tmp_path, again, [item])["kept"] == 1
    assert all(seen[0].text.startswith(GRADE) for seen in again.seen)


def test_ids_must_be_unique(tmp_path):
    with pytest.raises(ValueError, match="same id"):
        run(tmp_path, items=[Item(id="1", prompt="a"), Item(id="1", prompt="b")])


def test_there_is_nothing_to_read_before_the_end(tmp_path):
    with pytest.raises(ValueError, match="run `vlmguard rewriter synthesize` to the end"):
        read_examples(tmp_path)


def test_on_the_testbed_the_whole_pipeline_runs_and_outlives_a_kill(tmp_path):
    script = (
        "from pathlib import Path; from vlmguard_lab.testbed.synthesis import synthesize_testbed;"
        f"synthesize_testbed(Path({str(tmp_path)!r}), n=60, concurrency=4)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)  # noqa: S603
    calls = tmp_path / CALLS_FILE
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if calls.exists() and calls.read_text().count("\n") > 20:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = calls.read_text().count("\n") - 1
    manifest = synthesize_testbed(tmp_path, n=60)
    assert manifest["calls"]["remembered"] >= before - 1 >= 15
    assert (manifest["items"], manifest["kept"]) == (60, 60)
    rows = [json.loads(line) for line in calls.read_text().splitlines()[1:]]
    assert len({(row["item"], row["stage"]) for row in rows}) == len(rows)
    assert {example.rewrite.action for example in read_examples(tmp_path)} == {"allow", "rewrite"}
    assert (tmp_path / DATA_FILE).read_text().count(str(tmp_path)) == 0


def test_the_testbeds_analyst_grades_by_the_worlds_judge(tmp_path):
    asked = [request for request in sample_requests(60) if request.family == "drawn" and request.harmful][:2]
    items = as_items(asked, tmp_path)
    plain = Synthesis(OracleAnalyst.of(asked, items), RunnableLambda(lambda _: _Said("cake .")), pictures="drop")
    manifest = plain.run(items, tmp_path / "out")
    assert manifest["dropped"] == {"the answer to the new prompt is not useful": 2}
    assert load_testbed().name == "testbed"


class _Said:
    def __init__(self, text):
        self.text = text
