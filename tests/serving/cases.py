"""What goes wrong at guarded endpoints, as rules with a number, and how many of them hold: `python -m tests.serving.cases`.

The tests of a rule are named after it: `test_case_8_…` holds rule 8. A rule holds if a test of it passes and none fails.
"""

import ast
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated

import pytest
import typer

from langchain_vlmguard.files import write_json

FOLDER = Path(__file__).parent
CASES = {
    1: "Nothing of an answer leaves before its verdict; every mode says the same",
    2: "A word that is cut over chunks is judged whole",
    3: "Tool calls are judged by name and arguments, and leave whole or not at all",
    4: "Thoughts and refusals are output like any other",
    5: "Log-probabilities stay in with their choice, and what they spell is judged",
    6: "Every picture of every turn is judged, and as many are sent as were judged",
    7: "Every role, tool result, tool description and schema is judged",
    8: "What is too long to be judged is refused, never cut",
    9: "Nothing is stored, nothing runs detached, and only listed routes exist",
    10: "No field or header of a caller weakens the policy or its record",
    11: "No address is fetched that the policy does not list, each hop is checked, and what was judged is what is sent",
    12: "What was judged bad is in no error, header, log, span, number or listing",
    13: "Headers go through lists in both directions",
    14: "What cannot be judged in time is a block that LiteLLM cannot read as go on",
    15: "As many texts go back as came, and answers are never changed",
    16: "Unknown fields and tools do no harm: they are kept and judged",
    17: "Keep-alives can be read by real clients, in a second form, too",
    18: "The timer is the server's own, and nothing holds a stream back",
    19: "Borders of chunks mean nothing",
    20: "Usage is told once, if asked for",
    21: "A new id is a new call, whatever its index",
    22: "A cut answer is never a whole one",
    23: "A block has the envelope that was asked for",
    24: "A block can be read, and real clients raise what they should",
    25: "A decision is final, a shortage says when to come back, and errors have one shape",
    26: "A client that leaves is noticed at once, wherever its request is",
    27: "No failure keeps a slot",
    28: "The server ends in order",
    29: "Limits count what is unpacked",
    30: "A review outlives the process, is bound to its request, and passes once",
    31: "A hook that fails denies",
    32: "A hook speaks its agent's documented form, and nothing else",
    33: "A filter that may be skipped blocks where it can, and says what it cannot do",
}


def number_of(name):
    """The rule that a test is named after, None if it is none's."""
    found = re.match(r"test_case_(\d+)_", name)
    return int(found[1]) if found else None


def named_tests():
    """The files and names of the tests of each rule."""
    found = defaultdict(list)
    for path in sorted(FOLDER.rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (number := number_of(node.name)):
                found[number].append((path.name, node.name))
    return found


class Tally:
    """Counts outcomes by rule while pytest runs."""

    def __init__(self):
        self.outcomes = defaultdict(Counter)

    def pytest_runtest_logreport(self, report):
        number = number_of(report.nodeid.rpartition("::")[2])
        if number and (report.when == "call" or report.outcome != "passed"):
            self.outcomes[number][report.outcome] += 1

    @property
    def found(self):
        """How many rules hold, and which do not."""
        held = [number for number in CASES if self._holds(self.outcomes[number])]
        return {"passed": len(held), "of": len(CASES), "open": sorted(CASES.keys() - {*held})}

    def _holds(self, outcomes):
        return outcomes["passed"] > 0 and not outcomes["failed"]


def main(output: Annotated[Path | None, typer.Option("--json", help="Write here what was counted.")] = None) -> None:
    """Run the tests of all rules and count."""
    tally = Tally()
    code = pytest.main(["-q", str(FOLDER), "-k", "test_case_", "-p", "no:cacheprovider"], plugins=[tally])
    typer.echo(f"{tally.found['passed']} of {tally.found['of']} hold; open: {tally.found['open'] or 'none'}")
    if output:
        write_json(output, tally.found)
    sys.exit(0 if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else int(code))


if __name__ == "__main__":
    typer.run(main)
