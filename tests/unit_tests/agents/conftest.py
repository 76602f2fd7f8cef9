import pytest

from tests.agent_models import new_shop


@pytest.fixture
def shop():
    """A tool that orders, and what it ordered."""
    return new_shop()
