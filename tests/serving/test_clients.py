"""Other people's clients talk to the server unchanged. `openai` and `langchain-openai` do so in test_chat.py and elsewhere.

What has many pins lives in environments of its own; a variable names the program, and the test is skipped without it.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving.rules import BLOCKME
from tests.serving.running import running
from tests.serving.upstream import completion, whole

LITELLM = os.environ.get("VLMGUARD_LITELLM") or shutil.which("litellm")
PYRIT, GARAK = os.environ.get("VLMGUARD_PYRIT"), os.environ.get("VLMGUARD_GARAK")
"""The Python of an environment that has PyRIT, and of one that has garak."""

ASK_LITELLM = """
import sys, litellm
asked = [{"role": "user", "content": sys.argv[2]}]
answer = litellm.completion(model="openai/up", api_base=sys.argv[1], api_key="x", messages=asked)
print(answer.choices[0].finish_reason, answer.choices[0].message.content)
"""

ASK_GARAK = """
import sys
from garak import _config
_config.load_base_config()
_config.transient.reportfile = None
_config.plugins.generators = {"openai": {"OpenAICompatible": {"uri": sys.argv[1], "api_key": "x"}}}
from garak.attempt import Conversation, Message, Turn
from garak.generators.openai import OpenAICompatible
said = OpenAICompatible(name="up").generate(Conversation([Turn("user", Message(sys.argv[2]))]))
print([one and one.text for one in said])
"""


def asked(python, given, url, text):
    """What a program in an environment of its own hears."""
    environment = {"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAICOMPATIBLE_API_KEY": "x"}
    command = [python, *given, url, text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=True)  # noqa: S603
    return done.stdout


def test_inspect_talks_to_it_unchanged(up, server, tmp_path):
    from inspect_ai import Task
    from inspect_ai import eval as run
    from inspect_ai.dataset import Sample
    from inspect_ai.model import get_model
    from inspect_ai.solver import generate

    model = get_model("openai/up", base_url=server.url, api_key="x")
    task = Task(dataset=[Sample("hi"), Sample(BLOCKME)], solver=generate())
    [log] = run(task, model=model, display="none", log_dir=str(tmp_path))
    assert log.status == "success"
    good, bad = (sample.output for sample in log.samples)
    assert (good.completion, good.stop_reason) == ("fine", "stop")
    assert bad.stop_reason == "content_filter"
    assert "can't help" in bad.completion
    assert [b'"hi"' in one.body for one in up.requests].count(True) == 1  # it says hello first, by itself
    assert not any(BLOCKME.encode() in one.body for one in up.requests)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("python", "given"),
    [
        pytest.param(LITELLM and Path(LITELLM).with_name("python"), ["-c", ASK_LITELLM], id="litellm"),
        pytest.param(PYRIT, [Path(__file__).with_name("pyrit_client.py")], id="pyrit"),
        pytest.param(GARAK, ["-c", ASK_GARAK], id="garak"),
    ],
)
def test_they_talk_to_it_unchanged(up, tmp_path, python, given):
    if python is None:
        pytest.skip("no environment with it here: name one in VLMGUARD_LITELLM, VLMGUARD_PYRIT or VLMGUARD_GARAK")
    up.script = whole(completion())
    with running(up, tmp_path) as server:
        assert "fine" in asked(python, given, server.url, "hi")
        assert "can't help" in asked(python, given, server.url, BLOCKME).replace("\\'", "'")
        assert len(up.requests) == 1
