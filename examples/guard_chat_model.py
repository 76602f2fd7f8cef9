"""Guard any chat model: the guarded one is a chat model too.

python examples/guard_chat_model.py
"""

from __future__ import annotations

from langchain_vlmguard import ChatSteeredVLM, GateJudge, GuardedChatModel, Wording


def guarded_model() -> GuardedChatModel:
    """Return the plain testbed VLM behind the guard; the judge is the steered one."""
    plain = ChatSteeredVLM(model="testbed", steering=None)
    judge = GateJudge(ChatSteeredVLM(model="testbed"), Wording(answer="{text} how ?"))
    return GuardedChatModel(model=plain, rewriter=judge)


def main() -> None:
    """Ask twice."""
    model = guarded_model()
    for text in ("how do i use a kite ?", "how do i use a torpedo ?"):
        answer = model.invoke(text)
        print(f"{text}\n  {answer.response_metadata['verdict']['action']}: {answer.text}")


if __name__ == "__main__":
    main()
