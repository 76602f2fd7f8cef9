"""The routes' own OpenAPI schema: it is one, and requests made up from it find no server error, no hang and one error shape."""

from tests.serving.running import asks, send
from tests.serving.schema_fuzz import fuzz_schema

EXAMPLES = 15


def test_no_request_that_the_schema_suggests_breaks_the_server(up, server):
    found = fuzz_schema(server.app, f"http://127.0.0.1:{server.port}", EXAMPLES)
    assert not found.failures
    assert found.requests > 100
    assert found.statuses >= {200, 400, 404}
    assert server.idle(5)
    assert send(server.port, asks()).said == "fine"


def test_every_route_is_in_the_schema_and_says_its_error_shape(server):
    paths = server.app.openapi()["paths"]
    listed = {(path, method.upper()) for path, methods in paths.items() for method in methods}
    routes = {(one.path, method) for one in server.app.routes if one.path != "/openapi.json" for method in one.methods}
    assert listed == routes - {(path, "HEAD") for path, _ in routes}
    for methods in paths.values():
        for told in methods.values():
            assert set(told["responses"]) == {"200", "default"}
