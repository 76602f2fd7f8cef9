"""Files appear whole or not at all."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from langchain_vlmguard.files import (
    folder_written_whole,
    read_tensors,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)


def test_every_kind_is_read_back(tmp_path):
    write_bytes(tmp_path / "a.bin", b"\x00\xff")
    write_text(tmp_path / "a.txt", "grün\n")
    write_json(tmp_path / "a.json", {"a": [1]})
    write_tensors(tmp_path / "a.safetensors", {"t": torch.arange(6).view(2, 3).T}, {"kind": "test"})
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "grün\n"
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1]}
    tensors, metadata = read_tensors(tmp_path / "a.safetensors", {"kind": "test"}, "test")
    assert torch.equal(tensors["t"], torch.arange(6).view(2, 3).T)
    assert metadata["kind"] == "test"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".json", ".safetensors", ".txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.json", "\udcff")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "[\n 1\n]\n"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError), folder_written_whole(out) as beside:
        (beside / "half").write_bytes((beside / "nothing").read_bytes())
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    (out / "mine").write_text("mine")
    (out / "theirs").write_text("old")
    with folder_written_whole(out) as beside:
        (beside / "theirs").write_text("new")
    assert list(tmp_path.iterdir()) == [out]
    assert {path.name: path.read_text() for path in out.iterdir()} == {"mine": "mine", "theirs": "new"}


KILLED = """
import os, signal, sys
from pathlib import Path
from langchain_vlmguard import files

at, out = sys.argv[1], Path(sys.argv[2])
real = os.replace

def replace(source, target):
    real(source, target)
    if str(target).endswith(at):
        os.kill(os.getpid(), signal.SIGKILL)

files.os.replace = replace
with files.folder_written_whole(out) as beside:
    (beside / "theirs").write_text("new")
    if at == "nothing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="whether another process runs can be asked on POSIX systems alone")
@pytest.mark.parametrize(("at", "theirs"), [("nothing", "old"), (".old", "old"), ("/out", "new")])
def test_what_a_killed_process_left_is_put_in_order(at, theirs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    (out / "theirs").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, at, str(out)], check=False)  # noqa: S603
    assert killed.returncode == -signal.SIGKILL
    assert len([*tmp_path.glob("out.*")]) > 0
    other = tmp_path / "out.notes"
    other.write_text("somebody's")
    with pytest.raises(ZeroDivisionError), folder_written_whole(out):
        _ = 1 / 0
    assert {path.name: path.read_text() for path in out.iterdir()} == {"mine": "mine", "theirs": theirs}
    assert sorted(tmp_path.iterdir()) == [out, other]
