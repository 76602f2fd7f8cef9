"""Stub rules of a guard: markers that are blocked, replaced or break the judge, in words and in a picture."""

import base64
import json
import threading
import time
from dataclasses import dataclass, field

from langchain_core.runnables import Runnable

from langchain_vlmguard import Guard
from langchain_vlmguard.content.messages import calls_of, words_of
from langchain_vlmguard.content.turn import blocks_of
from langchain_vlmguard.rewriting.rewriter import Rewrite
from tests.pictures import png

BLOCKME, MASKME, BREAKME, HOLDME = "BLOCKME", "MASKME", "BREAKME", "HOLDME"
SLEEPME, DOZEME = "SLEEPME", "DOZEME"
"""Take three seconds, and some tenths of one."""

BAD, GOOD = png("red"), png("blue")
BADIMG = "data:image/png;base64," + base64.b64encode(BAD).decode()
GOODIMG = "data:image/png;base64," + base64.b64encode(GOOD).decode()


@dataclass
class Rules(Runnable):
    """A rewriter and a judge of texts that know the markers alone."""

    asked: list = field(default_factory=list, repr=False)
    threads: set = field(default_factory=set, repr=False)
    identity: str = "rules:1"

    def invoke(self, input, config=None, **kwargs):  # noqa: A002
        words = "\n".join(word for m in input for word in (*map(words_of, blocks_of(m)), *calls_of(m), m.name or ""))
        pictures = [b["base64"] for m in input for b in blocks_of(m) if b["type"] == "image"]
        self.asked.append(words)
        self.threads.add(threading.current_thread().name)
        if BREAKME in words:
            msg = f"broken by {words}"
            raise ValueError(msg)
        time.sleep(3.0 * (SLEEPME in words) + 0.6 * (DOZEME in words))
        if BLOCKME in words or base64.b64encode(BAD).decode() in pictures:
            return Rewrite(action="refuse", risk=0.9, threats=[], intent="x")
        if HOLDME in words:
            return Rewrite(action="review", risk=0.6, threats=[], intent="x")
        if MASKME in input[-1].text:
            prompt = input[-1].text.replace(MASKME, "[X]")
            return Rewrite(action="rewrite", risk=0.5, threats=[], intent="x", rewritten_prompt=prompt)
        return Rewrite(action="allow", risk=0.0, threats=[], intent="x")

    def judge_texts(self, texts):
        self.asked += texts
        if any("BREAKANSWER" in text for text in texts):
            msg = f"broken by {texts}"
            raise ValueError(msg)
        return [
            0.9 if any(mark in text or mark in _unescaped(text) for mark in (BLOCKME, MASKME)) else 0.0
            for text in texts
        ]


def _unescaped(text):
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def guard_of_rules(**policy):
    """A guard of these rules, and the rules."""
    rules = Rules()
    return Guard(rules, answer_judge=rules, policy=policy), rules


GUARD = guard_of_rules()[0]
"""For servers in processes of their own."""
