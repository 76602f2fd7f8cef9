"""From a config to models and a guard."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from pydantic import SecretStr

from langchain_vlmguard.audit.log import AuditLog
from langchain_vlmguard.errors import ServingConfigError, extra
from langchain_vlmguard.guard.parts import GuardParts
from langchain_vlmguard.serving.config import (
    AdapterRewriter,
    ChatModel,
    ChatRewriter,
    DecisionModel,
    GateRewriter,
    JudgeRewriter,
    Local,
    Moderation,
    OtherGuardrail,
)
from langchain_vlmguard.serving.judges import QUESTION, ChatJudge, DecisionJudge, GuardrailJudge, ModerationJudge
from langchain_vlmguard.serving.review_databases import PostgresDatabase, SqliteDatabase
from langchain_vlmguard.serving.upstream import UpstreamChat

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel

    from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM
    from langchain_vlmguard.rewriting.report import Rewriter
    from langchain_vlmguard.serving.config import Reviews, ServeConfig, Upstream
    from langchain_vlmguard.serving.judges import HttpJudge
    from langchain_vlmguard.serving.review_databases import ReviewDatabase
    from langchain_vlmguard.verdict.records import Json

_TESTBED = "testbed"


def models_of(config: ServeConfig) -> dict[str, BaseChatModel]:
    """Return the models that callers may ask for, by name; a model in this process is loaded."""
    if isinstance(config.backend, Local):
        return {config.backend.model: _local(config.backend)}
    return {name: _upstream(config.backend, name) for name in config.backend.models}


def guard_of(config: ServeConfig, models: dict[str, BaseChatModel]) -> GuardParts:
    """Return the guard; what it decides goes to the audit log, if the config names one.

    Raises:
        ServingConfigError: `guard` names something that is no guard.
        AuditError: The file of the audit log cannot be used.
    """
    parts = _parts(config, models)
    return parts if config.audit is None else replace(parts, telemetry=AuditLog(config.audit))


def _parts(config: ServeConfig, models: dict[str, BaseChatModel]) -> GuardParts:
    if config.guard is not None:
        if not isinstance(config.guard, GuardParts):
            said = f"guard: this is a {type(config.guard).__name__}, not a Guard: make one by Guard(rewriter, ...)"
            where = "the config"
            raise ServingConfigError(where, [said])
        return config.guard
    if config.judge is None:
        return GuardParts(_rewriter(config, models), policy=config.policy)
    judge = judge_of(config.judge)
    unset = config.rewriter is None and not isinstance(config.backend, Local)
    by_judge = unset or isinstance(config.rewriter, JudgeRewriter)
    rewriter = judge if by_judge else _rewriter(config, models)
    return GuardParts(rewriter, policy=config.policy, answer_judge=judge, judge=judge)


def judge_of(asked: Moderation | DecisionModel | ChatModel | OtherGuardrail) -> HttpJudge:
    """Return somebody else's judge as one of ours."""
    key = None if asked.key is None else asked.key.text
    if isinstance(asked, Moderation):
        return ModerationJudge(asked.url, asked.model, key, asked.seconds, pictures=asked.pictures)
    if isinstance(asked, OtherGuardrail):
        return GuardrailJudge(asked.url, None, key, asked.seconds, pictures=asked.pictures)
    kind = DecisionJudge if isinstance(asked, DecisionModel) else ChatJudge
    question = asked.question or QUESTION
    return kind(asked.url, asked.model, key, asked.seconds, pictures=asked.pictures, question=question)


def database_of(reviews: Reviews) -> ReviewDatabase:
    """Return the database in which reviews wait, open."""
    return SqliteDatabase(reviews.path) if reviews.address is None else PostgresDatabase(reviews.address.text)


def _local(backend: Local) -> ChatSteeredVLM:
    with extra("local"):
        from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM

        directions, most = backend.directions, backend.max_tokens
        return ChatSteeredVLM.from_pretrained(backend.model, directions=directions, max_tokens=most)


def _upstream(backend: Upstream, name: str) -> UpstreamChat:
    return UpstreamChat(
        url=backend.url,
        model=name,
        key=None if backend.key is None else SecretStr(backend.key.text),
        connect_seconds=backend.connect_seconds,
        answer_bytes=backend.answer_bytes,
        hosted_tools=backend.hosted_tools,
    )


def _rewriter(config: ServeConfig, models: dict[str, BaseChatModel]) -> Rewriter | None:
    chosen = config.rewriter
    if isinstance(chosen, ChatRewriter):
        return _chat(chosen)
    [model] = models.values()
    local = cast("ChatSteeredVLM", model)
    if isinstance(chosen, GateRewriter):
        from langchain_vlmguard.rewriting.gate_judge import GateJudge

        return GateJudge(local)
    if chosen is None and local.model == _TESTBED:
        chosen = AdapterRewriter(kind="adapter")
    if not isinstance(chosen, AdapterRewriter):
        return None
    from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter

    return ReasoningRewriter.from_adapter(local, chosen.adapter)


def _chat(chosen: ChatRewriter) -> Rewriter:
    from langchain.chat_models import init_chat_model

    from langchain_vlmguard.rewriting.rewriter import ReasoningRewriter

    given: Json = {} if chosen.url is None else {"base_url": chosen.url}
    if chosen.key is not None:
        given["api_key"] = chosen.key.text
    return ReasoningRewriter.from_model(init_chat_model(chosen.model, **given))
