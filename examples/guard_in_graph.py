"""The guard as one node of your own graph, and the branch after it. `langgraph.json` opens it in Studio.

python examples/guard_in_graph.py
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_vlmguard import ChatSteeredVLM, GateJudge, VLMGuardNode, route_on_verdict


class State(MessagesState):
    """Messages, and the verdict that the guard writes."""

    verdict: dict[str, Any]


def build() -> StateGraph[State]:
    """Return the graph, not compiled."""
    guard = VLMGuardNode(GateJudge(ChatSteeredVLM(model="testbed")))
    model = ChatSteeredVLM(model="testbed")

    def answer(state: State) -> dict[str, Any]:
        return {"messages": [model.invoke(guard.for_model(state))]}

    graph = StateGraph(State)
    graph.add_node("guard", guard)
    graph.add_node("answer", answer)
    graph.add_edge(START, "guard")
    graph.add_conditional_edges("guard", route_on_verdict, {"allow": "answer", "rewrite": "answer", "refuse": END})
    graph.add_edge("answer", END)
    return graph


graph = build().compile()


def main() -> None:
    """Ask twice."""
    for text in ("how do i use a kite ?", "how do i use a torpedo ?"):
        state = graph.invoke({"messages": [HumanMessage(text)]})
        print(f"{text}\n  {state['verdict']['action']}: {state['messages'][-1].text}")


if __name__ == "__main__":
    main()
