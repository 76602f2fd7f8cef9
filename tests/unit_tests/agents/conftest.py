import pytest
from langchain_core.tools import tool


@pytest.fixture
def shop():
    """A tool that orders, and what it ordered."""
    ordered = []

    @tool
    def order(item: str) -> str:
        """Order an item."""
        ordered.append(item)
        return f"ordered a {item}"

    return order, ordered
