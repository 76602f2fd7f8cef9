"""The audit log through a real agent: a row a check, no content, a chain that shows what was taken out, no row lost by a kill."""

import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from langchain.agents import create_agent
from langgraph.graph import START, StateGraph
from typer.testing import CliRunner

from langchain_vlmguard import Guard, GuardedChatModel, ReasoningRewriter, VLMGuardMiddleware, VLMGuardState
from langchain_vlmguard.audit.log import AuditLog
from langchain_vlmguard.audit.tuning import tuned
from langchain_vlmguard.cli.app import app
from langchain_vlmguard.errors import AuditError
from langchain_vlmguard.serving.app import create_app
from langchain_vlmguard.serving.config import ServeConfig
from tests.chat_models import ScriptedModel
from tests.rewrites import ALLOW, GOOD
from tests.serving.running import listening, send

SECRET = "zzzsecretzzz"


def run(*arguments):
    found = CliRunner().invoke(app, ["audit", *map(str, arguments)], env={"COLUMNS": "200"})
    return found.exit_code, found.output


def check(risk, **fields):
    verdict = {
        "action": "allow", "enforced": True, "severity": "safe", "answer": "released", "reviewed": None, "failure": None,
        "hazards": [], "security": [], "unjudged": [], "risk": risk, "answer_risk": None, "evidence_risk": None,
        "second_risk": None, "steering": None, "timings": {"rewrite": 0.1},
        "provenance": {"policy": "0" * 16, "thresholds": {"controversial": 0.3, "unsafe": 0.7}},
    }  # fmt: skip
    return {"stage": "input", "guard": "g", "tool": None, "call_id": None, "verdict": verdict | fields}


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "audit.db")


def test_every_check_of_an_agent_is_a_row_and_no_word_of_anybody_is_in_the_file(log):
    answers = [GOOD.replace("wants light", SECRET).replace("Name the danger", SECRET), ALLOW]
    guard = VLMGuardMiddleware(ReasoningRewriter.from_model(ScriptedModel(answers=answers)), telemetry=log)
    agent = create_agent(ScriptedModel(answers=[SECRET]), [], middleware=[guard])
    state = agent.invoke({"messages": [("user", f"where is {SECRET}?")]})
    found = [*log.rows()]
    assert {row.record["stage"] for row in found} == {"input", "output"}
    assert state["verdict"]["action"] == "rewrite"
    asked = next(row.record for row in found if row.record["stage"] == "input")
    assert (asked["action"], asked["risks"]["risk"]) == ("rewrite", 0.8)
    assert [one["id"] for one in asked["hazards"]] == ["mlcommons:ncr"]
    assert asked["policy"] == state["verdict"]["provenance"]["policy"]
    kept = b"".join(one.read_bytes() for one in log.path.parent.iterdir())
    assert SECRET.encode() not in kept


def test_a_wrapped_model_is_logged_too(log):
    model = GuardedChatModel(
        model=ScriptedModel(), rewriter=ReasoningRewriter.from_model(ScriptedModel(answers=[ALLOW])), telemetry=log
    )
    model.invoke("hello")
    assert [row.record["action"] for row in log.rows()] == ["allow"] * len([*log.rows()]) != []


REFUSE = re.sub(r"<prompt>.*</prompt>", "<prompt></prompt>", GOOD.replace(">rewrite<", ">refuse<"))


@pytest.mark.parametrize(("said", "actions"), [(ALLOW, ["allow"]), (REFUSE, ["refuse"])])
def test_graph_and_node_are_logged_too(log, said, actions):
    guard = Guard(ReasoningRewriter.from_model(ScriptedModel(answers=[said])), telemetry=log)
    guard.graph(ScriptedModel()).compile().invoke({"messages": [("user", "hello")]})
    assert [row.record["action"] for row in log.rows()] == actions
    whole = StateGraph(VLMGuardState)
    whole.add_node("guard", guard.node())
    whole.add_edge(START, "guard")
    whole.compile().invoke({"messages": [("user", "hello")]})
    assert [row.record["action"] for row in log.rows()] == actions * 2


def test_the_server_is_logged_where_its_config_names_a_file(tmp_path):
    config = ServeConfig(audit=tmp_path / "audit.db", reviews={"path": tmp_path / "reviews.db"})
    with listening(create_app(config)) as server:
        asked = {"messages": [{"role": "user", "content": "how do i make a kite ?"}]}
        assert send(server.port, asked).json["vlmguard"]["action"] == "allow"
    (row,) = AuditLog(tmp_path / "audit.db").rows()
    assert (row.record["action"], row.record["answer"]) == ("allow", "released")


def test_rows_are_found_by_what_was_done(log):
    log.record([check(0.1), check(0.9, action="refuse"), check(0.2)])
    assert [row.number for row in log.rows()] == [3, 2, 1]
    assert [row.number for row in log.rows(action="refuse")] == [2]
    assert [row.number for row in log.rows(stage="output")] == []
    assert [row.number for row in log.rows(limit=1)] == [3]
    assert [*log.rows(since="2999")] == []
    code, said = run("list", log.path, "--action", "refuse")
    assert code == 0
    assert "risk 0.90" in said
    assert run("export", log.path, log.path.with_suffix(".jsonl"))[0] == 0
    lines = log.path.with_suffix(".jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize(
    ("done", "says"),
    [
        (
            "UPDATE checks SET record = replace(record, 'allow', 'block') WHERE number = 2",
            "row 2 is not what was written",
        ),
        ("DELETE FROM checks WHERE number = 2", "rows 2 to 2 are missing"),
        ("DELETE FROM checks WHERE number >= 3", "rows 3 to 4 are missing"),
        ("DELETE FROM checks WHERE number = 1", "rows 1 to 1 are missing"),
    ],
)
def test_a_row_that_was_changed_or_taken_out_shows(log, done, says):
    log.record([check(0.1)] * 4)
    head = log.verify()
    assert run("verify", log.path, "--head", head) == (
        0,
        f"every row is what was written; the last one's hash is {head}\n",
    )
    with sqlite3.connect(log.path) as file:
        file.execute(done)
    with pytest.raises(AuditError, match=says):
        log.verify()
    code, said = run("verify", log.path)
    assert code == 1
    assert says in " ".join(said.split())


def test_a_log_that_was_written_anew_has_another_head(tmp_path):
    first, second = AuditLog(tmp_path / "a.db"), AuditLog(tmp_path / "b.db")
    first.record([check(0.1)])
    second.record([check(0.2)])
    code, said = run("verify", second.path, "--head", first.verify())
    assert code != 0
    assert "written anew" in " ".join(said.replace("│", " ").split())


def test_old_rows_can_be_forgotten_and_the_chain_goes_on(log):
    log.record([check(0.1)] * 3)
    assert log.forget(days=1) == 0
    assert log.forget(days=0) == 3
    log.record([check(0.2)])
    assert [row.number for row in log.rows()] == [4]
    assert log.verify() == next(log.rows()).hash
    with sqlite3.connect(log.path) as file:
        file.execute("DELETE FROM forgotten")
    with pytest.raises(AuditError, match="rows 1 to 3 are missing"):
        log.verify()


def test_what_is_no_log_is_named(tmp_path):
    (tmp_path / "a.db").write_text("no database, but a text that is long enough to be looked at")
    with pytest.raises(AuditError, match=r"a\.db cannot be used as an audit log"):
        AuditLog(tmp_path / "a.db")
    with pytest.raises(AuditError, match="has no row 7"):
        AuditLog(tmp_path / "b.db").label(7, "fine")


def test_many_threads_make_one_chain(log):
    def write():
        for _ in range(20):
            log.record([check(0.1), check(0.2)])

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([*log.rows()]) == 240
    log.verify()


WRITER = """
import sys
from langchain_vlmguard.audit.log import AuditLog
from tests.unit_tests.audit.test_log import check
log = AuditLog(sys.argv[1])
for number in range(100_000):
    log.record([check(0.5)])
    print(number + 1, flush=True)
"""


def test_a_kill_loses_no_row_that_was_said_to_be_written(log):
    rng, said = random.Random(0), 0
    for _ in range(4):
        writer = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", WRITER, str(log.path)], stdout=subprocess.PIPE, text=True
        )
        line = writer.stdout.readline()
        time.sleep(rng.random() * 0.2)
        writer.send_signal(signal.SIGKILL)
        lines = [line, *writer.stdout.read().splitlines()]
        writer.wait()
        said += int([one for one in lines if one.strip()][-1])
        log.verify()
        assert len([*log.rows()]) >= said
        said = len([*log.rows()])


def planted(log, rows, threshold, *, seed):
    """Fill a log with turns of which those above a threshold are harmful, and label them all."""
    rng = random.Random(seed)
    scores = [round(rng.random(), 4) for _ in range(rows)]
    log.record([check(score) for score in scores])
    for number, score in enumerate(scores, 1):
        log.label(number, "harmful" if score > threshold else "fine")
    return scores


def test_tuning_finds_a_planted_threshold(log):
    scores = planted(log, 2_000, 0.62, seed=1)
    (found,) = tuned(log.rows(), false_alarms=0.0)
    assert found.suggestion.threshold == pytest.approx(0.62, abs=0.01)
    (found,) = tuned(log.rows(), false_alarms=0.05)
    assert found.suggestion.low <= 0.95 * 0.62 <= found.suggestion.high
    fine = [score for score in scores if score <= 0.62]
    assert sum(score >= found.suggestion.threshold for score in fine) / len(fine) <= 0.05
    assert (found.precision.hits, found.precision.n) == (sum(score >= 0.7 for score in scores),) * 2
    assert found.recall.hits < found.recall.n
    assert found.would_act.hits > found.acts.hits
    code, said = run("tune", log.path, "--false-alarms", "0.05")
    assert code == 0
    assert f"{found.suggestion.threshold:.3f}" in said


def test_nothing_is_suggested_from_a_few_labels(log):
    log.record([check(0.1)] * 30)
    log.label(1, "fine")
    (found,) = tuned(log.rows())
    assert found.suggestion is None
    assert str(found.recall) == "-"


def test_the_gate_is_held_against_its_own_threshold(log):
    thresholds = {"controversial": 0.3, "unsafe": 0.7, "gate_unsafe": 0.95}
    log.record([check(0.9, steering={"risk": 0.9}, provenance={"policy": "0" * 16, "thresholds": thresholds})])
    by_risk = {one.risk: one for one in tuned(log.rows())}
    assert (by_risk["risk"].threshold, by_risk["risk"].acts.hits) == (0.7, 1)
    assert (by_risk["gate"].threshold, by_risk["gate"].acts.hits) == (0.95, 0)
