"""A whole config in sentences: who answers, who judges, who may call, and what the policy does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_vlmguard.serving.config import (
    AdapterRewriter,
    ChatRewriter,
    GateRewriter,
    JudgeRewriter,
    Local,
    Nobody,
)
from langchain_vlmguard.verdict.explain import explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_vlmguard.serving.config import ApiKey, ServeConfig

_JUDGE_READS = "The judge reads turns, too. Nothing is rewritten."


def explain_config(config: ServeConfig) -> dict[str, list[str]]:
    """Return what a server of this config does, in sentences by subject."""
    found = {"Models": [*_models(config)], "Callers": [*_callers(config)]}
    if config.guard is not None:
        return {**found, "Policy": ["The guard is an object of yours and brings its own policy."]}
    found["Policy"] = explain(config.policy)
    for key in config.keys:
        if key.policy is not None:
            found[f"Policy for {key.name}"] = explain(key.policy)
    return found


def _models(config: ServeConfig) -> Iterator[str]:
    backend = config.backend
    if isinstance(backend, Local):
        yield f"{backend.model} answers, in this process."
    else:
        yield f"{', '.join(backend.models)} at {backend.url} answers."
    yield _who_reads(config)
    if config.judge is not None:
        yield f"The judge at {config.judge.url} ({config.judge.kind}) judges answers and the words in pictures."


def _who_reads(config: ServeConfig) -> str:
    chosen = config.rewriter
    match chosen:
        case ChatRewriter():
            return f"{chosen.model} reads turns and rewrites prompts, and judges answers where no other judge does."
        case GateRewriter():
            return "The model's own gate judges turns. Nothing is rewritten, and what only a picture shows may pass."
        case Nobody():
            return "No rewriter reads turns: the model's own gate and probe judge alone."
        case JudgeRewriter():
            return _JUDGE_READS
        case AdapterRewriter():
            return f"The model itself, with the adapter {chosen.adapter}, reads turns and rewrites prompts."
    return (
        "A guard of yours judges."
        if config.guard is not None
        else "The testbed's own adapter reads turns and rewrites prompts."
    )


def _callers(config: ServeConfig) -> Iterator[str]:
    if not config.keys:
        yield f"Whoever reaches {config.listen.host}:{config.listen.port} may call."
    for key in config.keys:
        yield _caller(key)


def _caller(key: ApiKey) -> str:
    limits = [
        *([f"{key.requests_per_minute} requests a minute"] if key.requests_per_minute else []),
        *([f"{key.at_once} at once"] if key.at_once else []),
    ]
    may = f" ({', '.join(limits)})" if limits else ""
    also = " and decides about what is held" if key.reviewer else ""
    return f"{key.name} may call{may}{also}."
