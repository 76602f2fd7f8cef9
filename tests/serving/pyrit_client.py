"""PyRIT's own OpenAI target asks a server, in an environment of its own: `python pyrit_client.py URL TEXT`."""

import asyncio
import sys

from pyrit.models import Message, MessagePiece
from pyrit.prompt_target import OpenAIChatTarget
from pyrit.setup import IN_MEMORY, initialize_pyrit_async


async def main(url, text):
    await initialize_pyrit_async(memory_db_type=IN_MEMORY)
    target = OpenAIChatTarget(endpoint=url, api_key="x", model_name="up")
    asked = Message(message_pieces=[MessagePiece(role="user", original_value=text, conversation_id="1")])
    for message in await target.send_prompt_async(message=asked):
        for piece in message.message_pieces:
            print(piece.response_error, piece.converted_value)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
