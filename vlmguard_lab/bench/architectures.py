"""Try every architecture with every capability; write what works to docs/results/architectures.json and docs/chat_model.md.

python vlmguard_lab/bench/architectures.py            # all of them
python vlmguard_lab/bench/architectures.py gemma4     # one or some, the others kept as they are in the file
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.architecture_checks import CAPABILITIES, loaded_vlm  # noqa: E402 - the tests' own models
from tests.tiny_models import WITH_PROCESSOR  # noqa: E402

RESULTS, PAGE = ROOT / "docs" / "results" / "architectures.json", ROOT / "docs" / "chat_model.md"


def measure(families: list[str]) -> list[dict[str, str]]:
    """Return one row a family and capability."""
    rows = []
    for family in families:
        vlm = loaded_vlm(*WITH_PROCESSOR[family]())
        for capability, check in CAPABILITIES.items():
            try:
                check(vlm)
                outcome = "works"
            except Exception as error:  # noqa: BLE001 - whatever fails is the finding
                outcome = f"fails: {type(error).__name__}: {error}".split("\n")[0][:200]
            rows.append({"family": family, "capability": capability, "outcome": outcome})
        print(family, *(row["outcome"] for row in rows[-len(CAPABILITIES) :]), flush=True)
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as a Markdown table."""
    names = list(dict.fromkeys(row["capability"] for row in rows))
    found = {(row["family"], row["capability"]): row["outcome"] == "works" for row in rows}
    lines = [f"| family | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {family} | {' | '.join('yes' if found[family, name] else 'no' for name in names)} |"
        for family in dict.fromkeys(row["family"] for row in rows)
    ]
    return "\n".join(lines)


def publish(rows: list[dict[str, str]]) -> None:
    """Put the table between its marks on the page."""
    marked = re.compile(r"(<!-- architectures -->\n).*?(<!-- /architectures -->)", re.DOTALL)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(marked.sub(lambda found: found[1] + table(rows) + "\n" + found[2], page), encoding="utf-8")


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(WITH_PROCESSOR)
    before = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.is_file() else []
    fresh = measure(wanted) + [row for row in before if row["family"] not in wanted]
    measured = [row for family in WITH_PROCESSOR for row in fresh if row["family"] == family]
    from importlib.metadata import version

    facts = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "transformers": version("transformers"),
        "rows": measured,
    }
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    publish(measured)
