"""One process of an agent under review: starts a thread, or goes on with a decision. Run by test_restart.py."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.types import Command

from langchain_vlmguard import VLMGuardMiddleware
from tests.agent_models import AgentModel, WordJudge, call, calling

ANSWERS = {
    "input": ("maybe a kite", ["a kite"]),
    "output": ("hi", ["maybe this"]),
    "tool_args": ("hi", [calling(call("order", item="maybe kite")), "done"]),
    "tool_result": ("hi", [calling(call("order", item="kite")), "done"]),
}


@asynccontextmanager
async def saver(address):
    if address.startswith("postgresql"):
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(address) as found:
            await found.setup()
            yield found
    else:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        async with AsyncSqliteSaver.from_conn_string(address) as found:
            yield found


async def run(checkpointer, thread, decision):
    stage, ran = thread.split()[0], []

    @tool
    def order(item: str) -> str:
        """Order."""
        ran.append(item)
        return "maybe ordered" if stage == "tool_result" else "ordered"

    asked, answers = ANSWERS[stage]
    # After the restart another judge would let everything pass: the person's decision must hold all the same.
    judge = WordJudge() if decision is None else WordJudge(maybe="allow")
    model = AgentModel(answers=answers if decision is None or stage == "input" else answers[1:] or ["never asked"])
    agent = create_agent(model, [order], middleware=[VLMGuardMiddleware(judge)], checkpointer=checkpointer)
    given = {"messages": [HumanMessage(asked)]} if decision is None else Command(resume=decision)
    state = await agent.ainvoke(given, {"configurable": {"thread_id": thread}})
    stops = [stop.value for stop in state.get("__interrupt__", [])]
    return {"stops": stops, "messages": [str(message.text) for message in state["messages"]], "ran": ran}


async def main(address, decisions):
    async with saver(address) as checkpointer:
        return {thread: await run(checkpointer, thread, decision) for thread, decision in decisions.items()}


if __name__ == "__main__":
    json.dump(asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]))), sys.stdout)
