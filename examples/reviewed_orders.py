"""Orders that a person approves, on a checkpointer that outlives the process.

python examples/reviewed_orders.py orders.sqlite            # stops at the first order that needs a person
python examples/reviewed_orders.py orders.sqlite approve    # another process goes on: approve or reject

Needs `pip install langgraph-checkpoint-sqlite`.
"""

from __future__ import annotations

import sys
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

from langchain_vlmguard import ChatSteeredVLM, Rewrite, VLMGuardMiddleware

THREAD: Any = {"configurable": {"thread_id": "orders"}}


def needs_a_person(messages: list[Any]) -> Rewrite:
    """Judge by a rule: orders of blades wait for a person. Any judge will do, see `ReasoningRewriter`."""
    said = messages[-1]
    blade = (
        isinstance(said, HumanMessage) and "assistant is about to call" in str(said.text) and "knife" in str(said.text)
    )
    threats = [{"channel": "textual", "hazard": "mlcommons:vcr", "rationale": "a blade is ordered"}] if blade else []
    action = "review" if blade else "allow"
    return Rewrite.model_validate(
        {"threats": threats, "intent": "order", "action": action, "risk": 0.5 if blade else 0.0}
    )


@tool
def order(item: str) -> str:
    """Order one item from the shop."""
    return f"ordered a {item}"


def build(checkpointer: Any) -> Any:
    """Return the agent: the testbed VLM writes the tool calls."""
    vlm = ChatSteeredVLM(model="testbed")
    guard = VLMGuardMiddleware(RunnableLambda(needs_a_person))
    return create_agent(vlm, [order], middleware=[guard], checkpointer=checkpointer)


def run(path: str, decision: str | None) -> dict[str, Any]:
    """Start the thread, or go on with a decision."""
    with SqliteSaver.from_conn_string(path) as saver:
        given: Any = Command(resume=decision) if decision else {"messages": [HumanMessage("order a knife for me .")]}
        return build(saver).invoke(given, THREAD)


def main() -> None:
    """Run one step and say what happened."""
    state = run(sys.argv[1] if len(sys.argv) > 1 else "orders.sqlite", sys.argv[2] if len(sys.argv) > 2 else None)  # noqa: PLR2004
    for stop in state.get("__interrupt__", ()):
        for action in stop.value["action_requests"]:
            print("waits for a person:", action["name"], action["args"], action["description"])
    for message in state["messages"]:
        if isinstance(message, AIMessage | ToolMessage):
            print(f"{message.type}: {message.text} {getattr(message, 'tool_calls', '') or ''}")


if __name__ == "__main__":
    main()
