"""The config: typed, and its errors name file, field and remedy."""

import json

import pytest
from typer.testing import CliRunner

from langchain_vlmguard.cli.app import app
from langchain_vlmguard.errors import ServingConfigError
from langchain_vlmguard.serving.config import read_config

UP = {"kind": "upstream", "url": "http://x/v1", "models": ["a"]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("liste: 3", "liste: there is no such field; there are listen, keys"),
        ("listen: {port: 99999}", "listen.port: Input should be less than or equal to 65535"),
        ("listen: {prt: 1}", "listen.prt: there is no such field; there are host, port"),
        ("keys: [{name: a, key: {env: NOPE_NOPE}}]", "keys[0].key: the environment variable NOPE_NOPE is not set"),
        ("keys: [{name: a, key: {}}]", "keys[0].key: give `env`"),
        ("keys: [{name: a, key: {value: x}}, {name: a, key: {value: y}}]", "two keys have the same name"),
        (json.dumps({"backend": UP}), "an upstream model has no gate of ours: give `rewriter"),
        (json.dumps({"backend": UP | {"url": "x"}}), "backend.upstream.url"),
        ("listen: {host: 0.0.0.0}", "add keys, or listen on 127.0.0.1"),
        ("guard: no.such:thing", "guard: Invalid python path"),
        ("policy: {rewrite: sometimes}", "policy.rewriting.when: Input should be 'always'"),
        ("limits: {retry_after: 61}", "limits.retry_after: Input should be less than or equal to 60"),
        ("reviews: 'mysql://a/b'", "reviews: an address begins with postgresql://"),
        ("reviews: {address: {env: NOPE_NOPE}}", "reviews.address: the environment variable NOPE_NOPE is not set"),
        ("judge: {kind: openai-chat, url: 'http://x/v1'}", "judge.openai-chat.model: Field required"),
        ("judge: {kind: alien, url: 'http://x/v1'}", "judge: Input tag 'alien' found using 'kind' does not match any"),
        ("a: [", "this is not YAML"),
        ("- a", "the file must hold fields"),
    ],
)
def test_errors_name_file_field_and_remedy(tmp_path, given, said):
    path = tmp_path / "guard.yaml"
    path.write_text(given)
    with pytest.raises(ServingConfigError) as raised:
        read_config(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert said in str(raised.value)


def test_secrets_are_never_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "very-secret")
    path = tmp_path / "guard.yaml"
    path.write_text(
        "keys: [{name: a, key: {env: A_KEY}}, {name: b, key: {value: also-secret}}]\n"
        "reviews: 'postgresql://me:secret-too@host/db'\n"
    )
    config = read_config(path)
    assert config.reviews.address.text == "postgresql://me:secret-too@host/db"
    assert [one.key.text for one in config.keys] == ["very-secret", "also-secret"]
    assert "secret" not in repr(config).replace("SecretStr", "")


def test_the_environment_goes_before_the_file_and_nothing_is_needed(tmp_path, monkeypatch):
    assert read_config().backend.model == "testbed"
    monkeypatch.setenv("VLMGUARD_SERVE_LISTEN__PORT", "9001")
    path = tmp_path / "guard.yaml"
    path.write_text("listen: {port: 9000}")
    assert read_config(path).listen.port == 9001


def test_the_command_checks_a_config_in_one_line(tmp_path):
    path = tmp_path / "guard.yaml"
    path.write_text("limits: {queue: 1}")
    found = CliRunner().invoke(app, ["serve", "--config", str(path), "--check"])
    assert (found.exit_code, found.output.strip()) == (0, f"{path}: this can be used")
    assert CliRunner().invoke(app, ["serve", "--config", str(tmp_path / "no.yaml"), "--check"]).exit_code != 0
