"""A guard that is the testbed's gate alone: one prefill a turn, and nobody judges answers."""

from __future__ import annotations

from langchain_vlmguard import ChatSteeredVLM, Guard
from langchain_vlmguard.rewriting.gate_judge import GateJudge

GUARD = Guard(GateJudge(ChatSteeredVLM.from_pretrained("testbed")), answer_judge=None)
