import subprocess
import sys
from importlib.util import find_spec

import pytest

import langchain_vlmguard


def test_every_public_name_can_be_imported_and_is_listed():
    needs_newer_core = set() if find_spec("langchain_core.decisions") else {"VLMGuardDecisionModel"}
    for name in {*langchain_vlmguard.__all__} - needs_newer_core:
        assert getattr(langchain_vlmguard, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = langchain_vlmguard.nothing


@pytest.mark.skipif(find_spec("langchain_core.decisions") is not None, reason="langchain-core is new enough")
def test_the_decision_model_says_what_it_needs():
    with pytest.raises(ImportError, match=r"langchain-core 1\.8"):
        _ = langchain_vlmguard.VLMGuardDecisionModel


def test_importing_the_package_is_quick_and_imports_neither_torch_nor_transformers():
    script = (
        "import time; started = time.process_time(); import langchain_vlmguard; print(time.process_time() - started);"
        "import sys; sys.exit(bool({'torch', 'transformers', 'langgraph'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout  # noqa: S603
    assert float(printed) < 0.5


@pytest.mark.parametrize(
    "module",
    [
        "faces.graph",
        "faces.node",
        "faces.chat_model",
        "agents.middleware",
        "agents.guard",
        "verdict.records",
        "verdict.policy",
        "content.messages",
        "rewriting.rewriter",
        "models.steered_vlm",
        "serving.server",
    ],
)
def test_the_guard_itself_needs_no_torch(module):
    script = f"import sys, langchain_vlmguard.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603


def test_the_core_does_not_import_its_users():
    script = (
        "import sys, langchain_vlmguard.faces.graph, langchain_vlmguard.models.steered_vlm;"
        "import langchain_vlmguard.steering.selection;"
        "sys.exit(any(name.startswith('vlmguard_lab') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603
