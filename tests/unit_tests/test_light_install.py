"""`pip install langchain-vlmguard` alone: a venv with neither torch nor transformers guards API models."""

import re
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
NAME = "langchain-vlmguard"
HEAVY = {"torch", "transformers", "safetensors", "tokenizers", "numpy"}

USED = """
import sys
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_vlmguard import *

judge = RunnableLambda(lambda messages: Rewrite(
    threats=[], intent="", action="refuse" if "bomb" in str(messages[-1].content) else "allow", risk=0.0))
model = FakeListChatModel(responses=["fine"])
guard = Guard(judge)
for said, words in (("a kite", "fine"), ("a bomb", "can't help")):
    asked = {"messages": [HumanMessage(said)]}
    assert words in guard.graph(model).compile().invoke(asked)["messages"][-1].text
    assert words in create_agent(model, [], middleware=[guard.middleware()]).invoke(asked)["messages"][-1].text
    assert words in guard.wrap(model).invoke(said).text
    assert guard.node().invoke(asked)["verdict"]["action"] == ("allow" if words == "fine" else "refuse")
ReasoningRewriter.from_model(model)
for use in (lambda: ChatSteeredVLM.from_pretrained("testbed"), lambda: ChatSteeredVLM(model="testbed").invoke("hi")):
    try:
        use()
    except ImportError as error:
        assert "pip install 'langchain-vlmguard[local]'" in str(error), error
    else:
        raise AssertionError("a local model needs torch")
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "safetensors"}))
"""

LOCAL_NAMES = {"SafetyDirections", "Steering", "select_layers", "load_testbed"}


def needed(name, found):
    """Return every distribution that one needs without extras."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return found
    try:
        found[key] = distribution(name)
    except PackageNotFoundError:
        return found
    for line in found[key].requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed(requirement.name, found)
    return found


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A venv that holds what the package needs, and nothing else."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for dist in needed(NAME, {}).values():
        tops = {path.parts[0] for path in dist.files or [] if path.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            source, link = Path(dist.locate_file(top)), site / top
            if source.exists() and not link.exists():
                link.symlink_to(source)
    (site / "project.pth").write_text(str(ROOT))
    return folder / "bin/python"


def run(python, script):
    return subprocess.run([python, "-c", script], cwd="/", capture_output=True, text=True, check=False)  # noqa: S603


def test_nothing_heavy_is_needed():
    assert not HEAVY & set(needed(NAME, {}))


def test_a_guard_of_api_models_works_and_a_local_model_says_which_extra(light):
    assert run(light, "import torch").returncode != 0
    script = USED.replace(
        "from langchain_vlmguard import *", "from langchain_vlmguard import " + ", ".join(light_names())
    )
    done = run(light, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def light_names():
    import langchain_vlmguard

    return [name for name in langchain_vlmguard.__all__ if name not in LOCAL_NAMES | {"__version__", "load_guard"}]


@pytest.mark.parametrize("name", sorted(LOCAL_NAMES - {"load_testbed"}))
def test_what_needs_torch_says_which_extra_brings_it(light, name):
    done = run(light, f"from langchain_vlmguard import {name}")
    assert "pip install 'langchain-vlmguard[local]'" in done.stderr


@pytest.mark.parametrize(
    ("made", "extra"),
    [
        ("langchain_vlmguard.EvidenceReader()", "evidence"),
        ("langchain_vlmguard.content.ocr.TesseractReader()", "tesseract"),
        ("langchain_vlmguard.GuardPolicy(heif=True)", "heif"),
        ("langchain_vlmguard.GuardPolicy(pdf=True)", "pdf"),
        ("langchain_vlmguard.load_guard", "serve"),
    ],
)
def test_a_missing_extra_is_named_when_the_part_is_made(light, made, extra):
    done = run(light, f"import langchain_vlmguard, langchain_vlmguard.content.ocr\n{made}")
    assert done.stderr.strip().splitlines()[-1].endswith(f"pip install 'langchain-vlmguard[{extra}]'")


def test_the_command_line_names_an_extra_whole(light):
    script = "import sys; sys.argv = {}; from langchain_vlmguard.cli.app import app; app()"
    done = run(light, script.format(["vlmguard", "evaluate", "--suite", "testbed"]))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'langchain-vlmguard[eval]'")
    assert len(done.stderr.strip().splitlines()) == 1
    done = run(light, script.format(["vlmguard", "doctor", "testbed"]))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'langchain-vlmguard[local]'")


def test_the_command_line_starts(light):
    done = run(
        light, "import sys; sys.argv = ['vlmguard', '--help']; from langchain_vlmguard.cli.app import app; app()"
    )
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def test_this_python_is_not_the_light_one():
    assert "torch" in sys.modules or __import__("importlib.util").util.find_spec("torch")
