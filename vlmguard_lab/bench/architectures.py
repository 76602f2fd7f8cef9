"""Every supported architecture under every capability, each on a tiny random model."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.files import read_json, write_json
from vlmguard_lab.bench import page
from vlmguard_lab.bench.parts import Part, forget, measure
from vlmguard_lab.facts import run_facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Rows = list[dict[str, str]]

RESULTS, PAGE = page.RESULTS / "architectures.json", page.DOCS / "chat_model.md"
WORK = page.WORK / "architectures"


def run(families: Sequence[str] = ()) -> None:
    """Try families, all by default, and publish; what is known of the others is kept."""
    facts, known = run_facts(), list(_tests("tiny_models").WITH_PROCESSOR)
    if strange := set(families) - set(known):
        msg = f"there is no model for {', '.join(sorted(strange))}; there are {', '.join(known)}"
        raise EvaluationError(msg)
    wanted = list(families or known)
    tried = measure(WORK, [Part(name, partial(try_family, name)) for name in wanted], settings={})
    before = read_json(RESULTS)["rows"] if RESULTS.is_file() else []
    fresh = [row for rows in tried for row in rows] + [row for row in before if row["family"] not in wanted]
    rows = [row for family in known for row in fresh if row["family"] == family]
    write_json(RESULTS, {**facts, "rows": rows})
    page.place(PAGE, {"architectures": table(rows)})
    forget(WORK)


def try_family(family: str) -> Rows:
    """Return one row a capability: that it works, or how it fails."""
    checks = _tests("architecture_checks")
    vlm = checks.loaded_vlm(*_tests("tiny_models").WITH_PROCESSOR[family]())
    rows = []
    for capability, check in checks.CAPABILITIES.items():
        try:
            check(vlm)
            outcome = "works"
        except Exception as error:  # noqa: BLE001 - whatever fails is the finding
            outcome = f"fails: {type(error).__name__}: {error}".split("\n")[0][:200]
        rows.append({"family": family, "capability": capability, "outcome": outcome})
    return rows


def _tests(module: str) -> Any:
    """Import a module of the tests, which build the models and know what each must do."""
    if str(page.ROOT) not in sys.path:
        sys.path.insert(0, str(page.ROOT))
    return import_module(f"tests.{module}")


def table(rows: Iterable[dict[str, str]]) -> str:
    """Return the rows as a Markdown table."""
    rows = list(rows)
    names = list(dict.fromkeys(row["capability"] for row in rows))
    found = {(row["family"], row["capability"]): row["outcome"] == "works" for row in rows}
    lines = [f"| family | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {family} | {' | '.join('yes' if found[family, name] else 'no' for name in names)} |"
        for family in dict.fromkeys(row["family"] for row in rows)
    ]
    return "\n".join(lines)
