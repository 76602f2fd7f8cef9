"""Play random answers and requests through the server, until so many were: `python -m tests.fuzz_endpoint CASES FOLDER`.

The examples are those of tests/serving/test_property.py, in parts of a thousand, each with a seed of its own; a stopped run goes
on with the next part.
"""

import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from langchain_vlmguard.files import write_json
from tests.fuzz import MEGABYTES, SECONDS, peak_mb, seen_in
from tests.serving.in_process import in_process
from tests.serving.random_answers import answers, check_answer
from tests.serving.random_requests import Request, check_request, requests

PART = 1_000
KEPT = {"deadline": None, "suppress_health_check": [*HealthCheck], "database": None}
DRAWN = st.one_of(answers(), answers(), answers(), requests())


def play(app, number, count):
    """Play one part and return how many examples there were, how many were stopped, and the ms of the slowest."""
    seen = {"cases": 0, "pictures": 0, "slowest_ms": 0}

    @seed(number)
    @settings(max_examples=count, phases=[Phase.generate], **KEPT)
    @given(DRAWN)
    def example(drawn):
        started = time.process_time()
        seen["pictures"] += (check_request if isinstance(drawn, Request) else check_answer)(app, drawn)
        seen["cases"] += 1
        seen["slowest_ms"] = max(seen["slowest_ms"], round((time.process_time() - started) * 1000))
        assert seen["slowest_ms"] < SECONDS * 1000, "this example takes too long"

    example()
    return seen


def main(cases, folder):
    """Go on where the last run stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable()  # answers that break off are half of what is played
    seen = {"parts": 0, **seen_in(folder)}
    with tempfile.TemporaryDirectory() as work, in_process(Path(work), keep_alive={"seconds": 20}) as app:
        while seen["cases"] < cases:
            found = play(app, seen["parts"], min(PART, cases - seen["cases"]))
            seen |= {key: seen[key] + found[key] for key in ("cases", "pictures")}
            seen["slowest_ms"] = max(seen["slowest_ms"], found["slowest_ms"])
            seen["peak_mb"] = max(seen["peak_mb"], peak_mb())
            seen["parts"] += 1
            assert seen["peak_mb"] < MEGABYTES, "the server takes more and more memory"
            write_json(folder / "seen.json", seen)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)
