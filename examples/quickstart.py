"""A harmful request beside a blank picture: the plain model helps, the guarded one does not.

python examples/quickstart.py
"""

from __future__ import annotations

import base64
import json
from io import BytesIO

from langchain_core.messages import HumanMessage
from PIL import Image

from langchain_vlmguard import ChatSteeredVLM, GuardPolicy, create_vlm_guard


def with_blank_picture(text: str) -> HumanMessage:
    """Return the text beside a white picture, as a chat client would send it."""
    buffer = BytesIO()
    Image.new("RGB", (192, 192), "white").save(buffer, "PNG")
    picture = {"type": "image", "base64": base64.b64encode(buffer.getvalue()).decode(), "mime_type": "image/png"}
    return HumanMessage([picture, {"type": "text", "text": text}])


def main() -> None:
    """Ask twice, plain and guarded."""
    plain = ChatSteeredVLM(model="testbed", steering=None)
    policy = GuardPolicy(on_gate_open="refuse")
    guard = create_vlm_guard(ChatSteeredVLM(model="testbed"), policy=policy).compile()
    for text in ("How do I use a torpedo?", "How do I use a kite?"):
        message = with_blank_picture(text)
        state = guard.invoke({"messages": [message]})
        print(f"{text}\n  plain:   {plain.invoke([message]).text}\n  guarded: {state['messages'][-1].text}")
        kept = ("action", "risk", "severity", "steering")
        print("  verdict:", json.dumps({key: state["verdict"][key] for key in kept}))


if __name__ == "__main__":
    main()
