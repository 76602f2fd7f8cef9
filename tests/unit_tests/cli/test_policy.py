"""`vlmguard policy`: every template can be used, an error names its line, and the sentences follow the policy."""

import json

import pytest
from jsonschema import validate
from typer.testing import CliRunner

from langchain_vlmguard import Guard, GuardPolicy, load_guard
from langchain_vlmguard.cli.app import app
from langchain_vlmguard.serving.config import read_config
from langchain_vlmguard.verdict.explain import explain

TEMPLATES = ["assistant", "kids", "shop", "strict"]
RULE = {"id": "acme:pricing", "text": "Do not quote prices of competitors.", "on": "review"}


def run(*arguments):
    return CliRunner().invoke(app, ["policy", *map(str, arguments)])


@pytest.fixture
def written(tmp_path):
    def write(text):
        (tmp_path / "guard.yaml").write_text(text)
        return tmp_path / "guard.yaml"

    return write


def test_all_templates_are_listed_with_what_they_are_for():
    found = run("template")
    assert [line.split()[0] for line in found.output.splitlines()] == TEMPLATES
    assert "children" in found.output


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_can_be_used_as_it_is_printed(name, written):
    file = written(run("template", name).output)
    found = run("check", file)
    assert found.exit_code == 0, found.output
    assert read_config(file).policy.hash in found.output
    said = run("explain", file).output
    assert "gemma3 at http://127.0.0.1:11434/v1 answers." in said
    assert all(rule.text in said for rule in read_config(file).policy.rules)


def test_a_template_that_is_not_there_is_named():
    found = run("template", "banks")
    assert found.exit_code != 0
    assert "assistant, kids, shop, strict" in " ".join(found.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("policy:\n  on_controversial: review\n  on_unsafe: block\n", 3, "'allow', 'review' or 'refuse'"),
        ("policy:\n  on_unsave: refuse\n", 2, "did you mean on_unsafe?"),
        ("policy:\n  max_image: 2\n", 2, "did you mean max_images?"),
        ("policy:\n  rules:\n    - id: a:b\n      text: No.\n    - {id: a:c, text: No., on: block}\n", 5, "'refuse'"),
        ("listen:\n  port: 8000\nbackend: {kind: upstream,\n  url: here, models: [a]}\n", 4, "pattern"),
        ("keys:\n  - name: alice\n", 2, "key: Field required"),
        ("policy: {\n", 2, "not YAML"),
        ("policy: {rules: [{id: a:b, text: No.}]}\n", 1, "kind: chat"),
    ],
)
def test_an_error_names_the_line_and_what_is_right_there(text, line, says, written):
    found = run("check", written(text))
    assert found.exit_code == 1
    said = " ".join(found.output.split())
    assert f"line {line}:" in said
    assert says in said


def test_on_and_off_are_words(written):
    config = read_config(
        written(
            "keep_alive: {form: off}\ntelemetry: true\nrewriter: {kind: chat, model: a:b}\n"
            "policy: {rules: [{id: a:b, text: No., on: review}]}\n"
        )
    )
    assert (config.keep_alive.form, config.telemetry, config.policy.rules[0].on) == ("off", True, "review")


def test_the_schema_fits_what_a_config_may_say():
    validate({"policy": {"rules": [RULE]}, "listen": {"port": 1}}, json.loads(run("schema").output))


@pytest.mark.parametrize(
    "fields",
    [
        {"controversial_at": 0.1},
        {"unsafe_at": 0.9},
        {"enabled_hazards": ["mlcommons:vcr"]},
        {"on_hazard": {"mlcommons:prv": "review"}},
        {"rules": [RULE]},
        {"rules": [{**RULE, "on": "allow"}]},
        {"on_controversial": "review"},
        {"on_unsafe": "review"},
        {"on_hidden_request": "review"},
        {"on_unread_text": "note"},
        {"picture_labels": {"nsfw": {"hazard": "mlcommons:sxc"}}},
        {"on_unsafe_answer": "keep"},
        {"on_error": "review"},
        {"on_unreadable": "review"},
        {"on_gate_open": "refuse"},
        {"on_gate_open": "refuse", "on_gate_open_rewritten": "keep"},
        {"rewrite": "adaptive"},
        {"rewrite": "answer_first"},
        {"rewrite": "never"},
        {"judge_answers": "uncleared"},
        {"max_images": 2},
        {"max_text_chars": 10},
        {"max_image_bytes": 10},
        {"max_pixels": 10},
        {"image_hosts": ["img.example.com"]},
        {"pdf": True},
        {"refusal": "No."},
        {"safe_way": "Ask me something else."},
    ],
)
def test_the_sentences_follow_the_policy(fields):
    assert explain(GuardPolicy(**fields)) != explain(GuardPolicy())


def test_the_file_is_a_guard_in_a_program_too(written):
    guard, model = load_guard(written("policy: {on_controversial: review, refusal: No.}\n"))
    assert isinstance(guard, Guard)
    assert guard.policy.on_controversial == "review"
    graph = guard.graph(model).compile()
    refused = graph.invoke({"messages": [("user", "how do i make a bomb ?")]})
    assert refused["verdict"]["action"] in {"refuse", "rewrite"}
    assert graph.invoke({"messages": [("user", "how do i make a kite ?")]})["verdict"]["action"] == "allow"
