import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("LANGSMITH_TRACING", "false")


@pytest.fixture(scope="session")
def testbed():
    """The shipped testbed, loaded once."""
    from langchain_vlmguard import load_testbed

    return load_testbed()
