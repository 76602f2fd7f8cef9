"""Suites by name: `testbed`, or a published set with the folder it lies in, or `hub:` and its name there."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import EvaluationError, SuiteError
from vlmguard_lab.evaluation.suites.attack_sets import ATTACK_SETS
from vlmguard_lab.evaluation.suites.base import Suite
from vlmguard_lab.evaluation.suites.benign_sets import BENIGN_SETS
from vlmguard_lab.evaluation.suites.cross_modal_sets import CROSS_MODAL_SETS
from vlmguard_lab.evaluation.suites.testbed import conversation_suite, family_suite

if TYPE_CHECKING:
    from vlmguard_lab.evaluation.suites.base import Reader

READERS: MappingProxyType[str, Reader] = MappingProxyType(
    {reader.card.name: reader for reader in (*ATTACK_SETS, *CROSS_MODAL_SETS, *BENIGN_SETS)}
)
"""Every published set that can be read."""

_HUB = "hub:"


def load_suite(spec: str, work: Path, *, limit: int | None, seed: int) -> Suite:
    """Load a suite by name.

    Args:
        spec: `"testbed"`, `"testbed-conversations"`, `"<set>:<folder>"`, or `"<set>:hub:<owner>/<name>"` (a dataset of the
            Hugging Face hub that holds the layout named on the set's card).
        work: Folder for what has to be written, e.g. drawn pictures.
        limit: Most items of a cell and harm class; 24 for the testbed and all for a published set when `None`.
        seed: Decides which.

    Raises:
        EvaluationError: The spec is of another form, or names no known set.
        SuiteError: The set is not as its card says.
    """
    if spec == "testbed":
        return family_suite(limit or 24, work / "pictures", seed=seed)
    if spec == "testbed-conversations":
        return conversation_suite(limit or 24, work / "pictures", seed=seed)
    check_suite(spec)
    name, _, place = spec.partition(":")
    suite = READERS[name].load(_fetched(place) if place.startswith(_HUB) else Path(place).expanduser())
    return Suite(suite.card, suite.sample(limit, seed=seed))


def check_suite(spec: str) -> None:
    """Check a suite's name, and its folder if it is a local one, without reading it.

    Raises:
        EvaluationError: There is none.
    """
    if spec in ("testbed", "testbed-conversations"):
        return
    name, _, place = spec.partition(":")
    if name not in READERS or not place:
        msg = f"no suite {spec!r}: write 'testbed' or SET:FOLDER, with SET one of {', '.join(READERS)}"
        raise EvaluationError(msg)
    if not (place.startswith(_HUB) or Path(place).expanduser().exists()):
        msg = f"the suite {spec!r} names {place}, and there is no such folder"
        raise EvaluationError(msg)


def _fetched(place: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(place.removeprefix(_HUB), repo_type="dataset"))
    except Exception as error:
        msg = f"{place} could not be fetched ({type(error).__name__}): log in, or give a local folder"
        raise SuiteError(msg) from error
