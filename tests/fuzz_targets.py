"""One fuzz target in this process, ended by libFuzzer: `python -m tests.fuzz_targets NAME CASES FOLDER`."""

import copy
import os
import resource
import sys
import time
from pathlib import Path

import atheris
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_vlmguard.files import write_json
from tests.fuzz import MEGABYTES, SECONDS, peak_mb, seen_in

with atheris.instrument_imports(include=["langchain_vlmguard.content", "PIL"]):
    from tests.picture_mutators import mutated
    from tests.pictures import READABLE, UNREADABLE, b64, data_uri
    from tests.reading import FILES, conversation_is_read, file_is_checked_or_refused
    from tests.secret_hunt import Case, hunt

NAMES = """type image image_url input_image file media resource tool_result text text-plain video x url base64 data source
file_id path inline_data bytes mime_type media_type mimeType content source_type blob extras document detail"""
KNOWN = [*READABLE.values(), *(block for block, _ in UNREADABLE.values())]


class Chooser:
    """Blocks and messages out of a fuzzer's bytes: known spellings, spoilt ones, and blocks of random keys."""

    def __init__(self, data):
        self.data = atheris.FuzzedDataProvider(data)

    def below(self, bound):
        return self.data.ConsumeIntInRange(0, bound - 1)

    def one_of(self, choices):
        return choices[self.below(len(choices))]

    def name(self):
        return self.one_of(NAMES.split())

    def conversation(self):
        return [self.message() for _ in range(1 + self.below(3))]

    def message(self):
        content = [self.block() for _ in range(self.below(4))]
        kind = self.below(6)
        if kind < 2:
            return ToolMessage(content, tool_call_id="1", artifact=self.value() if kind else None)
        if kind == 2:
            return AIMessage(content, tool_calls=[{"name": "look", "args": {}, "id": "1"}])
        return (HumanMessage, SystemMessage, AIMessage)[kind - 3](content)

    def block(self):
        how = self.below(4)
        if how == 0:
            return self.data.ConsumeUnicode(20)
        if how == 1:
            return self.odd()
        return self.known() if how == 2 else {"type": "tool_result", "content": [self.known()]}

    def known(self):
        block = copy.deepcopy(self.one_of(KNOWN))
        for _ in range(self.below(3)):
            self.spoil(block)
        return block

    def spoil(self, block):
        """Drop, rename, replace or add one key, at any depth."""
        if not isinstance(block, dict) or not block:
            return
        key, how = self.one_of(list(block)), self.below(5)
        if how == 0:
            del block[key]
        elif how == 1:
            block[self.name()] = block.pop(key)
        elif how == 2:
            block[key] = self.value()
        elif how == 3:
            block[self.name()] = self.value()
        else:
            self.spoil(block[key])

    def odd(self, depth=0):
        return {self.name(): self.value(depth) for _ in range(self.below(4))}

    def value(self, depth=0):
        how = self.below(9 if depth < 2 else 6)
        if how < 6:
            return (None, self.data.ConsumeInt(4), self.data.ConsumeUnicode(8), data_uri(), b64(), b"\x89PNG")[how]
        if how == 6:
            return [self.value(depth + 1) for _ in range(self.below(3))]
        return self.odd(depth + 1) if how == 7 else self.known()


def messages(data):
    return bool(conversation_is_read(Chooser(data).conversation()).pictures)


def files(data):
    return bool(file_is_checked_or_refused(data))


def grown(data, most, seed):
    """Mutate a file as its format is built, every other time, and as libFuzzer does otherwise."""
    changed = mutated(data, seed) if seed % 2 else None
    return atheris.Mutate(data, most) if changed is None else changed[:most]


def secrets(data):
    case = Case.drawn(Chooser(data))
    found, blocked = hunt(case)
    assert not found, f"{case.name} is found in {found}"
    return blocked


TARGETS = {"messages": (messages, []), "files": (files, FILES), "secrets": (secrets, [])}
LONGEST = {"files": 65_536}
"""Bytes of an input, where it is not the usual."""

"""What reads a fuzzer's bytes and says whether a picture came out, or something was blocked; and what the first inputs are."""


def main(name, cases, folder):
    target, first = TARGETS[name]
    corpus, seen = folder / "corpus", seen_in(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(first):
        (corpus / f"first-{number}").write_bytes(data)

    def counted(data):
        started = time.process_time()
        seen["pictures"] += target(data)
        seen["cases"] += 1
        seen["slowest_ms"] = max(seen["slowest_ms"], round((time.process_time() - started) * 1000))
        assert seen["slowest_ms"] < SECONDS * 1000, "this input takes too long"
        if seen["cases"] % 1_000 == 0 or seen["cases"] >= cases:
            seen["peak_mb"] = max(seen["peak_mb"], peak_mb())
            assert seen["peak_mb"] < MEGABYTES, "some input takes too much memory"
            write_json(folder / "seen.json", seen)
        if seen["cases"] >= cases:
            os._exit(0)

    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    limits = [
        f"-timeout={12 * SECONDS}",
        f"-rss_limit_mb={MEGABYTES + inherited}",
        f"-max_len={LONGEST.get(name, 4_096)}",
        "-len_control=0",
    ]
    options = [f"-seed={1 + seen['cases']}", f"-artifact_prefix={folder}/", "-verbosity=0"]
    how = {"custom_mutator": grown} if name == "files" else {}
    atheris.Setup(["fuzz", str(corpus), *limits, *options], counted, **how)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
