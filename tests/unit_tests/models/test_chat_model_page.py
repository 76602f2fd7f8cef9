"""The page's code runs, and its table is that of the results."""

import json
import re
from pathlib import Path

import pytest

from vlmguard_lab.bench.architectures import table
from vlmguard_lab.bench.page import marked

ROOT = Path(__file__).parents[3]


def test_the_pages_python_runs():
    pytest.importorskip("llguidance")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/chat_model.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    exec(compile("\n".join(blocks), "chat_model.md", "exec"), {})  # noqa: S102 - our own page


def test_the_pages_table_is_that_of_the_results():
    rows = json.loads((ROOT / "docs/results/architectures.json").read_text())["rows"]
    assert marked("architectures", table(rows)) in (ROOT / "docs/chat_model.md").read_text()
    assert {row["outcome"] for row in rows} == {"works"}
