"""Dockerfile and compose.yaml are linted: there is no container engine here that could build them."""

import json
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from langchain_vlmguard.serving.config import ServeConfig

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
GUARDS = {name: one for name, one in COMPOSE["services"].items() if name.startswith("guard-")}


def test_the_dockerfile_has_no_finding():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    found = subprocess.run([hadolint, "--format", "json", ROOT / "Dockerfile"], capture_output=True, check=False)  # noqa: S603
    assert json.loads(found.stdout) == []


def test_what_it_copies_is_there_and_not_ignored():
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text().split("\n") if line.startswith("COPY ")]
    copied = {name for line in lines for name in line[1:-1] if not name.startswith(("--", "/"))}
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_compose_is_what_the_specification_says():
    compose_spec = pytest.importorskip("compose_spec")
    # As compose itself reads it: variables filled in, parts merged.
    text = re.sub(r"\$\{\w+:[-?]([^}]*)\}", r"\1", (ROOT / "compose.yaml").read_text())
    merged = yaml.safe_dump({key: value for key, value in yaml.safe_load(text).items() if not key.startswith("x-")})
    compose = compose_spec.PyCompose.from_yaml(merged)
    compose.validate()
    assert {*compose.service_names()} == {"guard-ollama", "ollama", "guard-vllm", "vllm"}


@pytest.mark.parametrize("name", GUARDS)
def test_each_guard_gets_a_config_that_the_server_takes(name, monkeypatch):
    service = GUARDS[name]
    for variable in service["environment"]:
        monkeypatch.setenv(variable, f"secret of {variable}")
    [given] = service["configs"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f'CMD ["--config", "{given["target"]}"]' in dockerfile
    config = ServeConfig.model_validate(yaml.safe_load(COMPOSE["configs"][given["source"]]["content"]))
    assert [key.reviewer for key in config.keys] == [False, True]
    assert config.listen.port == 8000
    behind = re.match(r"http://([a-z]+):", config.backend.url)[1]
    assert behind in service["depends_on"]
    assert COMPOSE["services"][behind]["profiles"] == service["profiles"]
    assert "ports" not in COMPOSE["services"][behind]  # the guard is the only way in
    grace = config.drain.pause + config.drain.grace
    assert int(service["stop_grace_period"].removesuffix("s")) > grace
