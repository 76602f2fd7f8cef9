import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

import langchain_vlmguard


def test_every_public_name_can_be_imported_and_is_listed():
    for name in langchain_vlmguard.__all__:
        assert getattr(langchain_vlmguard, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = langchain_vlmguard.nothing


@pytest.mark.skipif(find_spec("langchain_core.decisions") is not None, reason="langchain-core is new enough")
def test_the_decision_model_says_what_it_needs():
    with pytest.raises(ImportError, match=r"langchain-core 1\.8"):
        _ = langchain_vlmguard.VLMGuardDecisionModel


def test_importing_the_package_is_quick_and_imports_neither_torch_nor_transformers():
    script = "import sys, langchain_vlmguard; sys.exit(bool({'torch', 'transformers', 'langgraph'} & set(sys.modules)))"
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    "module", ["guard", "verdict", "policy", "content.messages", "rewriting.rewriter", "models.steered_vlm"]
)
def test_the_guard_itself_needs_no_torch(module):
    script = f"import sys, langchain_vlmguard.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603


def test_the_core_does_not_import_its_users():
    script = (
        "import sys, langchain_vlmguard.guard, langchain_vlmguard.models.steered_vlm, langchain_vlmguard.steering.selection;"
        "sys.exit(any(name.startswith('langchain_vlmguard.testbed') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603
