"""What the tests of the reference model share."""

import pytest

from tests.lab.reference.tiny import tiny_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny model, put together as the real one is."""
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")
