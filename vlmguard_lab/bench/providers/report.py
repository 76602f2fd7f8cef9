"""The comparison of every provider in every mode, and its table."""

from __future__ import annotations

from typing import Any

from langchain_vlmguard import VLMGuardMiddleware
from langchain_vlmguard.files import write_json
from vlmguard_lab.bench import page
from vlmguard_lab.bench.providers.registry import PROVIDERS
from vlmguard_lab.bench.providers.talk import MODES, WordJudge, compared, talk
from vlmguard_lab.facts import run_facts

RESULTS, PAGE = page.RESULTS / "providers.json", page.DOCS / "providers.md"
PACKAGES = (
    "langchain",
    "langchain-openai",
    "langchain-anthropic",
    "langchain-google-genai",
    "langchain-aws",
    "langchain-ollama",
    "langchain-mistralai",
)


def run() -> None:
    """Hold every conversation with the guard and without, and publish what was equal."""
    found = {"providers": {name: measured(name) for name in PROVIDERS}, **run_facts(*PACKAGES)}
    write_json(RESULTS, found)
    page.place(PAGE, {"providers": table(found)})


def measured(name: str) -> dict[str, Any]:
    """Compare one provider in every mode."""
    provider = PROVIDERS[name]
    by_mode = {}
    for mode in MODES:
        bodies, state = compared(talk(provider, mode), talk(provider, mode, VLMGuardMiddleware(WordJudge())))
        by_mode[mode] = {"bodies_equal": bodies, "state_equal": state}
    differs = [mode for mode, one in by_mode.items() if not all(one.values())]
    return {
        "bodies_equal": all(one["bodies_equal"] for one in by_mode.values()),
        "state_equal": all(one["state_equal"] for one in by_mode.values()),
        "modes": list(MODES),
        "reason": f"differs in {', '.join(differs)}" if differs else "",
        "by_mode": by_mode,
        "requests": len(provider.script),
        "not_in_the_conversation": provider.leaves_out,
    }


def table(found: dict[str, Any]) -> str:
    """Return a line a provider."""
    rows = []
    for name, one in found["providers"].items():
        modes = one["by_mode"].values()
        equal = [f"{sum(mode[key] for mode in modes)} of {len(modes)}" for key in ("bodies_equal", "state_equal")]
        rows.append((f"`{name}`", str(one["requests"]), *equal, one["reason"], one["not_in_the_conversation"]))
    head = (
        "provider",
        "requests",
        "bodies equal, modes",
        "state equal, modes",
        "what differs",
        "not in the conversation",
    )
    return page.table(head, rows)
