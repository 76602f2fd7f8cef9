import pytest

from tests.serving.running import running
from tests.serving.upstream import Upstream
from tests.serving.ways import WAYS


@pytest.fixture(scope="session")
def standing_up():
    with Upstream() as server:
        yield server


@pytest.fixture
def up(standing_up):
    """A fake upstream on loopback, as if it had just begun."""
    standing_up.forget()
    return standing_up


@pytest.fixture(scope="module")
def standing_server(standing_up, tmp_path_factory):
    with running(standing_up, tmp_path_factory.mktemp("standing"), keep_alive={"seconds": 10}) as found:
        yield found


@pytest.fixture
def server(up, standing_server):
    """A server with the stub rules before the upstream; one for all tests of a file."""
    standing_server.rules.asked.clear()
    assert standing_server.idle()
    return standing_server


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def stream(request):
    """Each case with stream off and on."""
    return request.param


@pytest.fixture(params=WAYS, ids=str)
def way(request):
    """Each case four ways: chat completions and responses, whole and streamed."""
    return request.param
