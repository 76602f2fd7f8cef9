"""Make training data for a rewriter: hindsight, causes, new prompt, and filters (VLMGuard-R1's offline pipeline)."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from langchain_vlmguard.files import write_json, write_text
from langchain_vlmguard.rewriting.items import Item
from langchain_vlmguard.rewriting.report import Rewrite
from langchain_vlmguard.rewriting.stages import (
    CAUSAL,
    GRADE,
    HINDSIGHT,
    OPTIMISE,
    CausalReport,
    Cause,
    Grade,
    OptimisedPrompt,
    RiskFeatures,
    stage,
)
from langchain_vlmguard.rewriting.turns import with_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable

    from langchain_vlmguard.rewriting.stages import Answer
    from langchain_vlmguard.verdict.records import Json

Part = Literal["hindsight", "textual", "visual", "cross_modal", "intent"]
"""What an ablation may leave out."""

CALLS_FILE, DATA_FILE, MANIFEST_FILE = "calls.jsonl", "data.jsonl", "manifest.json"


class Example(BaseModel):
    """One item of the finished training set."""

    model_config = ConfigDict(frozen=True)

    item: Item
    report: CausalReport
    rewrite: Rewrite


class DroppedError(ValueError):
    """An item does not pass a filter; the message is the reason that the manifest counts."""


@dataclass(frozen=True)
class Synthesis:
    """The pipeline: which models, which filters."""

    analyst: BaseChatModel
    """Runs the three stages and grades answers."""

    target: Runnable[Any, Any]
    """The model whose answers to `x_T` and `x_T'` are compared; also writes a missing unsafe answer."""

    guarded: Runnable[Any, Any] | None = None
    """Writes a missing safe answer; without one the analyst's hindsight has the unsafe answer alone."""

    without: frozenset[Part] = frozenset()
    pictures: Literal["keep", "drop"] = "keep"
    """Whether the target sees the picture beside the new prompt, as `GuardPolicy.rewritten_pictures` will have it."""

    attempts: int = 3
    """How often a model's call is tried."""

    def run(
        self,
        items: Iterable[Item],
        folder: Path,
        *,
        concurrency: int = 8,
        progress: Callable[[int, int], None] = lambda _done, _all: None,
        **about: Any,
    ) -> Json:
        """Make the data, or go on where an earlier run was stopped; no finished call of a model is repeated.

        Every answer of a model is written to `calls.jsonl` as soon as it is there; `data.jsonl` and `manifest.json` are
        written at the end.

        Args:
            items: What to start from; ids must be unique.
            folder: Where the files go.
            concurrency: Most items in work at a time.
            progress: Told how many items of how many are done.
            about: Written into the manifest, e.g. the models' names.

        Returns:
            The manifest: counts of what was kept, and of what was dropped and why.

        Raises:
            ValueError: Two items have the same id, or the folder holds calls of another run.
        """
        listed = list(items)
        if len({item.id for item in listed}) != len(listed):
            msg = "two items have the same id: ids must be unique, calls are remembered by them"
            raise ValueError(msg)
        started = time.perf_counter()
        settings = {"without": sorted(self.without), "pictures": self.pictures, **about}
        with Journal.open(folder, settings) as journal, _stoppable(ThreadPoolExecutor(concurrency)) as pool:
            remembered = journal.remembered
            work = {pool.submit(self._one, item, journal): item for item in listed}
            outcomes: dict[str, Example | str] = {}
            for done in as_completed(work):
                outcomes[work[done].id] = done.result()
                progress(len(outcomes), len(listed))
            calls = journal.written
        examples = [found for item in listed if isinstance(found := outcomes[item.id], Example)]
        dropped = Counter(reason for reason in outcomes.values() if isinstance(reason, str))
        manifest = {
            "items": len(listed),
            "kept": len(examples),
            "kept_by_action": dict(sorted(Counter(e.rewrite.action for e in examples).items())),
            "kept_by_source": dict(sorted(Counter(e.item.source for e in examples).items())),
            "dropped": dict(dropped.most_common()),
            "settings": settings,
            "calls": {"made": calls, "remembered": remembered},
            "seconds": round(time.perf_counter() - started, 1),
            "date": datetime.now(UTC).date().isoformat(),
        }
        write_text(folder / DATA_FILE, "".join(_line(example, folder) for example in examples))
        write_json(folder / MANIFEST_FILE, manifest)
        return manifest

    def _one(self, item: Item, journal: Journal) -> Example | str:
        """Return the item's example, or why there is none."""
        try:
            return _ItemRun(self, item, journal).example()
        except DroppedError as error:
            return str(error)


@contextmanager
def _stoppable(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """Begin nothing more after an error, and after Ctrl-C do not even wait: a call of a model may take minutes."""
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()


@dataclass(frozen=True)
class _ItemRun:
    """The calls of one item, each remembered."""

    setting: Synthesis
    item: Item
    journal: Journal

    def example(self) -> Example:
        report = self._report()
        optimised = self._ask("optimise", OPTIMISE, OptimisedPrompt, report=report)
        try:
            rewrite = optimised.rewrite(report)
        except ValueError as error:
            msg = "report and new prompt do not go together"
            raise DroppedError(msg) from error
        self._filter(rewrite)
        return Example(item=self.item, report=report, rewrite=rewrite)

    def _original(self) -> str:
        return self._answer("target", self.setting.target, self.item.prompt, keep=True)

    def _report(self) -> CausalReport:
        setting = self.setting
        given: Json = {}
        if "hindsight" not in setting.without and self.item.harmful is not False:
            answers = {"unsafe answer": self.item.unsafe or self._original()}
            safe = self.item.safe
            if safe is None and setting.guarded is not None:
                safe = self._answer("guarded", setting.guarded, self.item.prompt, keep=True)
            if safe is not None:
                answers["safe answer"] = safe
            given["risk features"] = self._ask("hindsight", HINDSIGHT, RiskFeatures, **answers)
        report = self._ask("causal", CAUSAL, CausalReport, **given)
        empty = {"textual": Cause(), "visual": Cause(), "cross_modal": Cause(), "intent": "", "legitimate_part": ""}
        removed = {*setting.without, *(("legitimate_part",) if "intent" in setting.without else ())}
        return report.model_copy(update={name: empty[name] for name in empty if name in removed})

    def _filter(self, rewrite: Rewrite) -> None:
        if self.item.harmful is False:
            _require(rewrite.action == "allow", "a harmless prompt was not left as it is")
            return
        if rewrite.action != "rewrite":
            _require(self.item.harmful is None or rewrite.action != "allow", "a harmful prompt was allowed")
            return
        prompt = rewrite.rewritten_prompt or ""
        _require(prompt.split() != self.item.prompt.split(), "the new prompt is the old one")
        answer = self._answer("rewritten", self.setting.target, prompt, keep=self.setting.pictures == "keep")
        before = self._ask("grade original", GRADE, Grade, answer=self._original())
        after = self._ask("grade rewritten", GRADE, Grade, answer=answer)
        _require(after.harm < before.harm or after.harm == 0, "the answer to the new prompt is no safer")
        _require(after.useful, "the answer to the new prompt is not useful")

    def _ask(self, name: str, told: str, schema: type[Answer], **given: Any) -> Answer:
        runnable = stage(self.setting.analyst, told, schema).with_retry(stop_after_attempt=self.setting.attempts)
        try:
            said = self.journal.once(
                self.item.id, name, lambda: runnable.invoke({"item": self.item, **given}).model_dump(mode="json")
            )
        except ValueError as error:
            msg = f"the analyst's {name} cannot be read"
            raise DroppedError(msg) from error
        return schema.model_validate(said)

    def _answer(self, name: str, model: Runnable[Any, Any], prompt: str, *, keep: bool) -> str:
        calling = model.with_retry(stop_after_attempt=self.setting.attempts)
        messages = with_prompt(self.item.messages(), 0, prompt, keep_pictures=keep)
        said: str = self.journal.once(self.item.id, name, lambda: str(calling.invoke(messages).text))
        return said


class Journal:
    """Every finished call, by item and stage, one JSON line each, on disk before it is used."""

    def __init__(self, path: Path, known: dict[tuple[str, str], Any]) -> None:
        """Use `open`."""
        self._known, self._lock = known, Lock()
        self._file = path.open("a", encoding="utf-8")
        self.remembered, self.written = len(known), 0

    @classmethod
    def open(cls, folder: Path, settings: Json) -> Self:
        """Open a folder's journal; a line that was torn by a kill is cut off.

        Raises:
            ValueError: The folder's calls were made under other settings.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path, head = folder / CALLS_FILE, json.dumps({"settings": settings}, sort_keys=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines and not _whole(lines[-1]):
            lines.pop()
        if len(lines) > 1 and lines[0] != head:
            msg = f"{folder} holds calls that were made under other settings: use another folder, or remove it"
            raise ValueError(msg)
        lines = [head, *lines[1:]]
        write_text(path, "\n".join(lines) + "\n")
        rows = [json.loads(line) for line in lines[1:]]
        return cls(path, {(row["item"], row["stage"]): row["said"] for row in rows})

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the file; what is under way is not called or written any more."""
        with self._lock:
            self._file.close()

    def once(self, item: str, name: str, call: Callable[[], Any]) -> Any:
        """Return what was said for an item at a stage, calling the model only if it is not known.

        Raises:
            CancelledError: The journal was closed meanwhile.
        """
        if (item, name) not in self._known:
            if self._file.closed:
                raise CancelledError
            said = call()
            with self._lock:
                if self._file.closed:
                    raise CancelledError
                self._known[item, name] = said
                self._file.write(json.dumps({"item": item, "stage": name, "said": said}) + "\n")
                self._file.flush()
                self.written += 1
        return self._known[item, name]


def read_examples(folder: Path) -> list[Example]:
    """Read a finished training set; pictures are found relative to its folder.

    Raises:
        ValueError: There is no finished set in the folder.
    """
    path = folder / DATA_FILE
    if not path.is_file():
        msg = f"{folder} holds no {DATA_FILE}: run `vlmguard rewriter synthesize` to the end first"
        raise ValueError(msg)
    examples = [Example.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        example.model_copy(update={"item": example.item.model_copy(update={"image": folder / example.item.image})})
        if example.item.image
        else example
        for example in examples
    ]


def _line(example: Example, folder: Path) -> str:
    image = example.item.image
    if image is not None:
        relative = Path(os.path.relpath(image, folder))
        example = example.model_copy(update={"item": example.item.model_copy(update={"image": relative})})
    return example.model_dump_json() + "\n"


def _require(holds: bool, reason: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise DroppedError(reason)


def _whole(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True
