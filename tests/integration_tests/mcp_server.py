"""An MCP server with a tool for every kind of content; run as a program it serves on a port of loopback."""

import base64
import sys
from io import BytesIO

from mcp.server.fastmcp import FastMCP, Image
from mcp.types import BlobResourceContents, EmbeddedResource, TextContent, TextResourceContents
from PIL import Image as Pillow
from pydantic import BaseModel

server = FastMCP("kinds", host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 0)


class Report(BaseModel):
    """A report."""

    title: str
    words: str


def square() -> bytes:
    buffer = BytesIO()
    Pillow.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


@server.tool()
def text(words: str) -> str:
    """Return a text."""
    return f"it says {words_of(words)}"


@server.tool()
def picture() -> Image:
    """Return a picture."""
    return Image(data=square(), format="png")


@server.tool(structured_output=False)
def resource(words: str) -> list[EmbeddedResource]:
    """Return a text as an embedded resource."""
    held = TextResourceContents(uri="memo://one", mimeType="text/plain", text=words_of(words))
    return [EmbeddedResource(type="resource", resource=held)]


@server.tool(structured_output=False)
def picture_resource() -> list[EmbeddedResource]:
    """Return a picture as an embedded resource."""
    held = BlobResourceContents(uri="memo://two", mimeType="image/png", blob=base64.b64encode(square()).decode())
    return [EmbeddedResource(type="resource", resource=held)]


@server.tool()
def structured(words: str) -> Report:
    """Return structured content."""
    return Report(title="a report", words=words_of(words))


@server.tool(structured_output=False)
def failing(words: str) -> list[TextContent]:
    """Fail."""
    msg = f"cannot find {words_of(words)}"
    raise ValueError(msg)


def words_of(words: str) -> str:
    """The calls themselves are harmless: the server says the harmful word."""
    return "a bomb" if words == "harm" else words


if __name__ == "__main__":
    server.run(transport="streamable-http")
