"""Errors of this package; each says what was wrong and what to do."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain_core.exceptions import ModelInvalidRequestError, ModelRateLimitError, ModelTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator


class VLMGuardError(Exception):
    """Base of every error of this package."""


class MissingExtraError(VLMGuardError, ImportError):
    """A package is not installed that one of the extras brings."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra to install if an import inside the block finds a package missing.

    Raises:
        MissingExtraError: A package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0].startswith(("langchain_vlmguard", "vlmguard_lab")):
            raise
        msg = f"this needs {error.name}, which is not installed: pip install 'langchain-vlmguard[{name}]'"
        raise MissingExtraError(msg, name=error.name) from error


class UnreadableContentError(VLMGuardError, ValueError):
    """A part of a message cannot be read, so it cannot be shown to a model."""


class DirectionsMismatchError(VLMGuardError, ValueError):
    """Safety directions do not belong to the model they are used on."""


class GuardFilesError(VLMGuardError, OSError):
    """Our files beside a checkpoint are missing, changed or another model's; it is never loaded as if it had none."""


class RowSettingsError(VLMGuardError, ValueError):
    """What a request asks of vLLM's workers cannot be read or done; it is refused, never answered plain."""


class EngineRefusedError(VLMGuardError, RuntimeError):
    """A vLLM engine is set up in a way that steering was not tested with, so it must not start."""


class MissingStampError(VLMGuardError, RuntimeError):
    """An answer of vLLM does not prove that its row was read or steered as asked, so it is not used."""


class NoThresholdError(VLMGuardError, ValueError):
    """A gate's risk does not tell harmless requests from harmful ones."""


class UnsupportedArchitectureError(VLMGuardError, ValueError):
    """The decoder layers of a model cannot be found."""


class AdapterError(VLMGuardError, ValueError):
    """A rewriter's adapter is missing, cannot be read, or belongs to another model."""


class ReviewDatabaseError(VLMGuardError, RuntimeError):
    """The database in which reviews wait cannot be used."""


class RewriteError(VLMGuardError, RuntimeError):
    """The rewriter gave no usable answer; the original prompt was not passed on."""


class NoJudgeError(VLMGuardError):
    """A guard has nobody who judges: it would let everything through and call it safe."""

    def __init__(self) -> None:
        """Name the ways to get a judge."""
        super().__init__(
            "this guard has nobody who judges, so it would let everything through. Give it one of these: "
            "(1) a rewriter, e.g. ReasoningRewriter.from_model(chat_model), from any chat model; "
            "(2) a local model with safety directions, ChatSteeredVLM.from_pretrained(model, directions=...), whose gate and "
            "probe judge; (3) answer_judge=..., anything with judge_texts(texts) -> risks. To read turns and judge nothing on "
            'purpose, give a rewriter and GuardPolicy(rewrite="never").'
        )


class SuiteError(VLMGuardError, ValueError):
    """An evaluation set is missing or has another layout than its authors gave it."""


class EvaluationError(VLMGuardError, ValueError):
    """An evaluation cannot be run as asked: an unknown suite, arm or judge, or one that needs what is not there."""


class GuardViolationError(VLMGuardError, RuntimeError):
    """The guard stopped an agent and was asked to raise; the verdict says why."""

    def __init__(self, stage: str, verdict: dict[str, Any]) -> None:
        """Carry the stage (`input`, `output`, `tool_args`, `tool_result`) and the verdict as a plain dict."""
        super().__init__(f"the guard decided {verdict['action']!r} at stage {stage!r}: {verdict['reason']}")
        self.stage = stage
        self.verdict = verdict


class ServingConfigError(VLMGuardError, ValueError):
    """A server's config cannot be used."""

    def __init__(self, where: str, lines: list[str]) -> None:
        """Name the file, and every field with what is wrong there."""
        super().__init__(f"{where}: {'; '.join(lines)}")
        self.where, self.lines = where, lines


class AuditError(VLMGuardError, RuntimeError):
    """An audit log cannot be read or written, or is not what was written."""


class UpstreamError(VLMGuardError, RuntimeError):
    """A server behind ours gave no answer that can be used; nothing of what it said is repeated."""

    def __init__(self, said: str, status: int | None = None, retry_after: int | None = None) -> None:
        """Say in our own words what happened.

        Args:
            said: What happened.
            status: Its HTTP status, if it answered with an error.
            retry_after: Seconds after which it wants to be asked again.
        """
        super().__init__(said)
        self.status, self.retry_after = status, retry_after


class GenerationTimeoutError(VLMGuardError, ModelTimeoutError, TimeoutError):
    """An answer was not finished within the caller's timeout."""


class BusyError(VLMGuardError, ModelRateLimitError):
    """Too many requests wait for the model already."""


class ModelMemoryError(VLMGuardError, MemoryError):
    """A row does not fit into the memory of the device, not even in a smaller batch."""


class StructuredOutputError(VLMGuardError, ModelInvalidRequestError, ValueError):
    """A schema cannot be enforced by a grammar, or the answer that follows it was cut at `max_tokens`."""
