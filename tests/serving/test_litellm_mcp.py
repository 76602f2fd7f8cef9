"""MCP tools behind the real LiteLLM proxy, with a real MCP server and client: calls and results go through our guard."""

import asyncio
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from tests.serving.litellm_program import KEY, NEEDED, litellm_proxy
from tests.serving.rules import BLOCKME, BREAKME
from tests.serving.running import running
from tests.serving.upstream import Upstream

pytestmark = NEEDED
GUARD = Path(__file__).parents[2] / "examples" / "litellm_mcp_guard.py"


@contextmanager
def tools():
    """A real MCP server on loopback, and the calls that it got."""
    from mcp.server.fastmcp import FastMCP

    server, called = FastMCP("tools"), []

    @server.tool()
    def echo(text: str) -> str:
        """Say a text again."""
        called.append(text)
        return text

    @server.tool()
    def page(name: str) -> str:
        """Fetch a page."""
        called.append(name)
        return f"a page that says {BLOCKME}" if name == "bad" else "a page about kites"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = uvicorn.Server(uvicorn.Config(server.streamable_http_app(), port=port, log_config=None))
    thread = threading.Thread(target=program.run, daemon=True)
    thread.start()
    while not program.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/mcp", called
    finally:
        program.should_exit = True
        thread.join(10)


MODES = {"pre": ["pre_mcp_call", "post_mcp_call"], "during": ["during_mcp_call", "post_mcp_call"]}


@pytest.fixture(scope="module", params=[*MODES])
def proxied(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mcp")
    shutil.copy(GUARD, folder)
    with Upstream() as up, running(up, folder) as server, tools() as (address, called):
        guardrail = {
            "guardrail": "litellm_mcp_guard.McpGuard",
            "mode": MODES[request.param],
            "api_base": f"http://127.0.0.1:{server.port}",
            "default_on": True,
        }
        config = {
            "model_list": [],
            "mcp_servers": {"tools": {"url": address, "transport": "http", "allow_all_keys": True}},
            "guardrails": [{"guardrail_name": "vlmguard", "litellm_params": guardrail}],
        }
        with litellm_proxy(folder, config) as url:
            yield url, called, server


def call(url, tool, **arguments):
    """Call a tool by a real MCP client; its words, and whether it is an error."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def ask():
        headers = {"x-litellm-api-key": f"Bearer {KEY}"}
        async with (
            streamablehttp_client(f"{url}/mcp", headers=headers) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            names = [one.name for one in (await session.list_tools()).tools]
            found = await session.call_tool(next(one for one in names if one.endswith(tool)), arguments)
            return " ".join(getattr(part, "text", "") for part in found.content), bool(found.isError)

    return asyncio.run(ask())


def test_what_is_harmless_passes_and_what_is_not_reaches_no_tool_and_no_client(proxied, request):
    url, called, server = proxied
    assert call(url, "echo", text="hello") == ("hello", False)
    assert call(url, "page", name="good") == ("a page about kites", False)
    assert any("hello" in one for one in server.rules.asked), server.rules.asked
    for text in (BLOCKME, f"x {BREAKME}"):
        before = list(called)
        said, failed = call(url, "echo", text=text)
        assert failed
        assert text not in said
        if "pre" in request.node.callspec.id:
            assert called == before
    said, failed = call(url, "page", name="bad")
    assert failed
    assert BLOCKME not in said
