"""Everything that a running server holds, put together once and taken apart once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from langchain_vlmguard.serving.building import database_of, guard_of, models_of
from langchain_vlmguard.serving.guard_loop import GuardLoop
from langchain_vlmguard.serving.guarding import Guarding
from langchain_vlmguard.serving.http_errors import HttpError
from langchain_vlmguard.serving.jobs import Jobs
from langchain_vlmguard.serving.keys import Keys
from langchain_vlmguard.serving.metrics import Metrics
from langchain_vlmguard.serving.reviews import ReviewStore
from langchain_vlmguard.serving.tracing import Tracing
from langchain_vlmguard.serving.upstream import UpstreamChat

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel

    from langchain_vlmguard.serving.config import ServeConfig
    from langchain_vlmguard.serving.keys import Caller
    from langchain_vlmguard.verdict.records import SafetyVerdict


class Service:
    """Models, guards, queue, keys, numbers and reviews of one server."""

    def __init__(self, config: ServeConfig, tracing: Tracing | None = None) -> None:
        """Take the config; `start` does the rest."""
        self.config = config
        self.tracing = Tracing() if tracing is None and config.telemetry else tracing
        self.guard_loop = GuardLoop()
        self.jobs = Jobs(config.limits, self.guard_loop)
        self.keys = Keys(config.keys, config.limits.retry_after)
        self.metrics = Metrics(self.jobs)
        self.reviews = ReviewStore(database_of(config.reviews), config.reviews.keep_hours)
        self.models: dict[str, BaseChatModel] = {}
        self._guardings: dict[tuple[str, str], Guarding] = {}
        self._own_policy = config.policy

    async def start(self) -> None:
        """Load the models and build a guard for each of them and each policy, before anybody is served."""
        await asyncio.to_thread(self._build)
        for model in self.models.values():
            if isinstance(model, UpstreamChat):
                await self.guard_loop.run(model.open())

    def _build(self) -> None:
        self.models = models_of(self.config)
        guard = guard_of(self.config, self.models)
        self._own_policy = guard.policy
        policies = {one.hash: one for one in (guard.policy, *(key.policy for key in self.config.keys if key.policy))}
        for name, model in self.models.items():
            for number, policy in policies.items():
                own = guard if policy is guard.policy else replace(guard, policy=policy)
                self._guardings[name, number] = Guarding(own, model, self.reviews, self.config.limits.retry_after)

    def guarding(self, caller: Caller, model: str | None) -> tuple[str, Guarding]:
        """Return the name of a model and its guard under a caller's policy; the first model if none is named.

        Raises:
            HttpError: There is no such model.
        """
        name = next(iter(self.models)) if model is None else model
        if name not in self.models:
            known = ", ".join(self.models)
            raise HttpError(404, "model_not_found", f"there is no such model here; there are {known}", "model")
        return name, self._guardings[name, (caller.policy or self._own_policy).hash]

    def report(self, route: str, verdict: SafetyVerdict) -> None:
        """Count a verdict, and trace it."""
        self.metrics.verdict(route, verdict)
        if self.tracing is not None:
            self.tracing.check(verdict)

    async def close(self) -> None:
        """Close connections, threads and files."""
        for model in self.models.values():
            if isinstance(model, UpstreamChat):
                await self.guard_loop.run(model.aclose())
        await asyncio.to_thread(self.guard_loop.close)
        await asyncio.to_thread(self.reviews.close)
