import pytest

from tests.serving.upstream import Upstream


@pytest.fixture
def up():
    """A fake upstream on loopback."""
    with Upstream() as server:
        yield server


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def stream(request):
    """Each case with stream off and on."""
    return request.param
