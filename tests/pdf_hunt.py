"""Read hostile PDFs one after the other, each in a process of its own: `python -m tests.pdf_hunt CASES FOLDER`.

The reader's processes are forked off this one instead of started anew, which is faster by far; all else is as it is in use.
A reader that breaks, or goes beyond its bounds, is what they are for. What fails here is an error of Python's in it, which
nobody foresaw, a picture or a word over a limit, or memory and seconds beyond the bounds.
"""

import os
import resource
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

from langchain_vlmguard import UnreadableContentError
from langchain_vlmguard.content import apart, documents
from langchain_vlmguard.files import write_json
from langchain_vlmguard.verdict.limits import PdfLimits, ReadLimits
from tests.fuzz import MEGABYTES, seen_in
from tests.pdf_mutators import drawn

SECONDS = 2
BETWEEN_NOTES = 100


def limits():
    """Return what a reader may cost: as much memory as any target beside what this process has already, and small pages."""
    status = Path("/proc/self/status").read_text()
    own = 1024 * int(status.split("VmSize:")[1].split()[0])
    pdf = PdfLimits(read=True, max_pages=4, max_text_chars=5_000, edge=200, max_memory=own + MEGABYTES * 2**20)
    return ReadLimits(pdf=pdf)


class Readers:
    """Takes the place of `subprocess`, and notes what each process cost."""

    TimeoutExpired = subprocess.TimeoutExpired

    def __init__(self):
        self.seconds, self.megabytes, self.errors, self.stopped = 0.0, 0, b"", False

    def run(self, command, *, input, **_):  # noqa: A002 - the name that subprocess gives it
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
            given.write(input)
            given.seek(0)
            child = os.fork()
            if not child:
                for file, number in ((given, 0), (said, 1), (errors, 2)):
                    os.dup2(file.fileno(), number)
                self.read(command[-1])
            _, status, cost = os.wait4(child, 0)
            said.seek(0)
            errors.seek(0)
            self.seconds, self.megabytes = cost.ru_utime + cost.ru_stime, cost.ru_maxrss // 1024
            self.errors, code = errors.read(), os.waitstatus_to_exitcode(status)
            self.stopped = code != 0
            return subprocess.CompletedProcess(command, code, said.read())

    def read(self, module):
        """Be the process that reads; its seconds are those of computing, whatever else runs on this machine."""
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            sys.stdin, sys.stdout = (open(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w")))  # noqa: SIM115
            import_module(module).main()
            sys.stdout.flush()
            code = 0
        except MemoryError:
            pass
        except Exception:  # noqa: BLE001 - whatever it is, it is what this looks for
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)


def is_read(data, within, readers):
    """Read a PDF, or be told why not; say whether there is a page."""
    try:
        pages = documents.read_pdf(data, within)
    except UnreadableContentError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
        pages = ()
    assert b"Traceback" not in readers.errors, readers.errors.decode(errors="replace")
    assert readers.seconds < SECONDS + 1, f"it took {readers.seconds} seconds"
    assert len(pages) <= within.pdf.max_pages
    for page in pages:
        assert max(page.picture.size) <= within.pdf.edge
        assert len(page.layer) <= within.pdf.max_text_chars
    return bool(pages)


def main(cases, folder):
    """Read cases until there are so many; note what the costliest took, and how many were stopped at a bound."""
    import_module("pypdfium2")
    import_module("langchain_vlmguard.content.pdf_pages")
    seen, readers, within = {"stopped": 0, **seen_in(folder)}, Readers(), limits()
    apart.subprocess = readers
    while seen["cases"] < cases:
        data = drawn(seen["cases"])
        readers.errors = b""
        try:
            seen["pictures"] += is_read(data, within, readers)
        except AssertionError:
            (folder / f"crash-{seen['cases']}.pdf").write_bytes(data)
            raise
        seen["cases"] += 1
        seen["stopped"] += readers.stopped
        seen["slowest_ms"] = max(seen["slowest_ms"], round(readers.seconds * 1000))
        seen["peak_mb"] = max(seen["peak_mb"], readers.megabytes)
        if seen["cases"] % BETWEEN_NOTES == 0 or seen["cases"] == cases:
            write_json(folder / "seen.json", seen)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
