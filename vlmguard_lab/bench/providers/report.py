"""The comparison of every provider in every mode, and its table."""

from __future__ import annotations

from typing import Any

from rich.progress import track

from langchain_vlmguard import VLMGuardMiddleware
from langchain_vlmguard.files import read_json, write_json
from vlmguard_lab.bench import page
from vlmguard_lab.bench.providers.registry import PROVIDERS
from vlmguard_lab.bench.providers.talk import MODES, WHOLE, WordJudge, behind_the_guard, compared, talk
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
    """Hold every conversation with the guard and without, and publish what was equal; agents.json holds the short of it."""
    facts = run_facts(*PACKAGES)
    found = {"providers": {name: measured(name) for name in track(PROVIDERS, "providers")}, **facts}
    write_json(RESULTS, found)
    known = read_json(page.AGENTS) if page.AGENTS.is_file() else {}
    write_json(page.AGENTS, {**known, "providers": short(found)})
    page.place(PAGE, {"providers": table(found)})


def short(found: dict[str, Any]) -> dict[str, Any]:
    """Return what was equal, without the single modes."""
    return {
        name: {key: value for key, value in one.items() if key not in ("by_mode", "chat_model_by_mode")}
        for name, one in found["providers"].items()
    }


def measured(name: str) -> dict[str, Any]:
    """Compare one provider in every mode: through an agent with the middleware, and through the guarded chat model."""
    provider = PROVIDERS[name]
    plain = {mode: talk(provider, mode) for mode in MODES}
    agent = {mode: compared(plain[mode], talk(provider, mode, VLMGuardMiddleware(WordJudge()))) for mode in MODES}
    asked_whole = {mode: plain["ainvoke" if mode.startswith("a") else "invoke"] for mode in WHOLE}
    model = {mode: compared(asked_whole[mode], talk(provider, mode, wrap=behind_the_guard)) for mode in WHOLE}
    differs = [mode for mode, equal in agent.items() if not all(equal)]
    differs += [f"{mode} (chat model)" for mode, equal in model.items() if not all(equal)]
    return {
        **_all_equal(agent),
        "modes": list(MODES),
        "chat_model": {**_all_equal(model), "modes": list(WHOLE)},
        "reason": f"differs in {', '.join(differs)}" if differs else "",
        "by_mode": {mode: _equal(*equal) for mode, equal in agent.items()},
        "chat_model_by_mode": {mode: _equal(*equal) for mode, equal in model.items()},
        "requests": len(provider.script),
        "not_in_the_conversation": provider.leaves_out,
    }


def _equal(bodies: bool, state: bool) -> dict[str, bool]:  # noqa: FBT001 - a pair
    return {"bodies_equal": bodies, "state_equal": state}


def _all_equal(by_mode: dict[str, tuple[bool, bool]]) -> dict[str, bool]:
    bodies, states = zip(*by_mode.values(), strict=True)
    return _equal(all(bodies), all(states))


def table(found: dict[str, Any]) -> str:
    """Return a line a provider."""
    rows = []
    for name, one in found["providers"].items():
        counts = [
            _count(one[by], key) for by in ("by_mode", "chat_model_by_mode") for key in _equal(bodies=True, state=True)
        ]
        rows.append((f"`{name}`", str(one["requests"]), *counts, one["reason"], one["not_in_the_conversation"]))
    head = (
        "provider",
        "requests",
        "bodies equal, modes",
        "state equal, modes",
        "chat model: bodies",
        "chat model: state",
        "what differs",
        "not in the conversation",
    )
    return page.table(head, rows)


def _count(by_mode: dict[str, dict[str, bool]], key: str) -> str:
    return f"{sum(mode[key] for mode in by_mode.values())} of {len(by_mode)}"
