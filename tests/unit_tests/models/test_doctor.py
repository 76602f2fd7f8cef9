"""`vlmguard doctor` says what works and what does not."""

import json
import shutil

from typer.testing import CliRunner

from langchain_vlmguard.cli.app import app
from langchain_vlmguard.models.doctor import examine
from langchain_vlmguard.models.loading import checkpoint_path


def found(*args, **kwargs):
    return {finding.subject: finding for finding in examine(*args, **kwargs)}


def test_the_testbed_is_healthy_and_answers():
    findings = found("testbed", run=True)
    assert {finding.status for finding in findings.values()} == {"ok"}
    assert "6 layers of hidden size 128" in findings["decoder layers"].said
    assert findings["answer to a picture"].said.endswith(", steered")


def test_a_template_without_tools_or_pictures_and_wrong_directions_are_named(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint_path("testbed"), folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}hi{% endfor %}")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    findings = found(str(folder))
    assert findings["tools"].status == "warning"
    assert findings["pictures"].status == "failure"
    assert findings["directions"].status == "failure"
    assert "answer to text" not in findings


def test_the_command_fails_where_nothing_is(tmp_path):
    result = CliRunner().invoke(app, ["doctor", str(tmp_path / "nothing")])
    assert result.exit_code == 1
    assert "failure" in result.output
