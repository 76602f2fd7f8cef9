"""Our files beside a checkpoint: a folder of their own with a manifest of digests, so that no other loader trips over them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from langchain_vlmguard.errors import GuardFilesError
from langchain_vlmguard.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langchain_vlmguard.steering.directions import SafetyDirections
    from langchain_vlmguard.steering.probe import TurnProbe

FOLDER = "vlmguard"
"""Where our files lie in a checkpoint: engines that read every `*.safetensors` of its root see none of them."""

MANIFEST = "manifest.json"
DIRECTIONS_FILE = "safety_directions.safetensors"
"""If a checkpoint has this file, its model is steered by it by default."""

PROBE_FILE = "turn_probe.safetensors"
"""If a checkpoint has this file, it clears turns in adaptive rewriting."""

KNOWN = (DIRECTIONS_FILE, PROBE_FILE)
FORMAT = 1


class ModelHashes(TypedDict):
    """Which model files belong to; see `steering.directions`."""

    config_hash: str
    weights_hash: str


class Manifest(TypedDict):
    """What `vlmguard/manifest.json` holds."""

    format: int
    model: ModelHashes
    files: dict[str, str]
    """Name to the SHA-256 of the file, in hex."""


def guard_folder(checkpoint: Path) -> Path:
    """Return the folder of our files in a checkpoint."""
    return checkpoint / FOLDER


def write_guard_files(
    checkpoint: Path, *, directions: SafetyDirections | None = None, probe: TurnProbe | None = None
) -> Path:
    """Write directions and a probe into a checkpoint's folder `vlmguard`, and the manifest after them.

    A file of the same model that lies there already stays; copies at the old place, beside the weights, go.

    ??? example "Ship a model with its directions"

        ```python
        write_guard_files(Path("my-checkpoint"), directions=directions)
        ```

    Args:
        checkpoint: The folder of the weights.
        directions: Directions to write.
        probe: A probe to write.

    Returns:
        The folder.

    Raises:
        ValueError: Nothing was given, or the two belong to different models.
    """
    given = {name: one for name, one in ((DIRECTIONS_FILE, directions), (PROBE_FILE, probe)) if one is not None}
    models = [
        ModelHashes(config_hash=one.card.config_hash, weights_hash=one.card.weights_hash) for one in given.values()
    ]
    if not models or models[0] != models[-1]:
        msg = "give directions, a probe, or both, of one and the same model"
        raise ValueError(msg)
    folder = guard_folder(checkpoint)
    kept = _kept(folder, models[0])
    for name, one in given.items():
        one.save(folder / name)
        kept[name] = digest(folder / name)
    write_json(folder / MANIFEST, Manifest(format=FORMAT, model=models[0], files=kept))
    for name in given:
        (checkpoint / name).unlink(missing_ok=True)
    return folder


def _kept(folder: Path, model: ModelHashes) -> dict[str, str]:
    """Return the files of an older manifest of the same model."""
    if not (folder / MANIFEST).is_file():
        return {}
    old = _manifest(folder / MANIFEST, "the checkpoint")
    return {name: one for name, one in old["files"].items() if old["model"] == model and (folder / name).is_file()}


def find_guard_files(
    checkpoint: str, options: Mapping[str, object], model: ModelHashes, commit: str | None
) -> dict[str, Path]:
    """Return our files of a checkpoint by name, checked against its manifest; empty where it has none.

    Args:
        checkpoint: A local folder or a hub id.
        options: `revision`, `token` and `cache_dir` of the weights, for a hub id.
        model: The loaded model's hashes.
        commit: The hub commit that the weights came from.

    Raises:
        GuardFilesError: Files are missing, changed, not listed, or of another model, or it cannot be known whether there are any.
    """
    local = Path(checkpoint).is_dir()
    fetch = _local(Path(checkpoint)) if local else _hub(checkpoint, options, commit)
    listed = fetch(f"{FOLDER}/{MANIFEST}")
    if listed is None:
        if guard_folder(Path(checkpoint)).is_dir() or any(fetch(f"{FOLDER}/{name}") for name in KNOWN):
            msg = f"{checkpoint} has a folder {FOLDER!r} without {MANIFEST}: copy it whole, or write it with write_guard_files"
            raise GuardFilesError(msg)
        return {name: file for name in KNOWN if (file := fetch(name)) is not None}
    manifest = _manifest(listed, checkpoint)
    if manifest["model"] != model:
        msg = f"{listed} belongs to another model than the weights of {checkpoint}: fit on this model, or remove the folder"
        raise GuardFilesError(msg)
    files = manifest["files"]
    if local:
        _check_strays(Path(checkpoint), files)
    return {name: _checked(fetch(f"{FOLDER}/{name}"), name, wanted, checkpoint) for name, wanted in files.items()}


def _check_strays(checkpoint: Path, files: Mapping[str, str]) -> None:
    """Make sure that a folder holds no file of ours beside those that its manifest lists."""
    for name in KNOWN:
        old = checkpoint / name
        if name not in files and (old.is_file() or (guard_folder(checkpoint) / name).is_file()):
            msg = f"{name} of {checkpoint} is not listed in {FOLDER}/{MANIFEST}: write it with write_guard_files"
            raise GuardFilesError(msg)
        if old.is_file() and digest(old) != files[name]:
            msg = f"{checkpoint} has two different files {name}, beside the weights and in {FOLDER!r}: remove one"
            raise GuardFilesError(msg)


def _checked(file: Path | None, name: str, wanted: str, checkpoint: str) -> Path:
    if file is None:
        msg = (
            f"{FOLDER}/{name} of {checkpoint} is missing, and its manifest lists it: copy or download the folder whole"
        )
        raise GuardFilesError(msg)
    if digest(file) != wanted:
        msg = f"{FOLDER}/{name} of {checkpoint} was changed after its manifest was written: fetch it again"
        raise GuardFilesError(msg)
    return file


def _manifest(file: Path, checkpoint: str) -> Manifest:
    """Read a manifest and check its form.

    Raises:
        GuardFilesError: It is none of ours.
    """
    try:
        read = read_json(file)
    except (ValueError, OSError) as error:
        msg = f"{file} of {checkpoint} cannot be read: fetch it again"
        raise GuardFilesError(msg) from error
    match read:
        case {"format": int(form), "model": {"config_hash": str(), "weights_hash": str()}, "files": dict(files)} if (
            form == FORMAT
            and files
            and all(isinstance(one, str) and len(one) == 64 for one in files.values())  # noqa: PLR2004
            and not any("/" in name or "\\" in name or name.startswith(".") for name in files)
        ):
            return cast("Manifest", read)
    msg = f"{file} is no manifest of format {FORMAT}: write it with write_guard_files of this version"
    raise GuardFilesError(msg)


def _local(folder: Path) -> Callable[[str], Path | None]:
    return lambda name: file if (file := folder / name).is_file() else None


def _hub(repository: str, options: Mapping[str, object], commit: str | None) -> Callable[[str], Path | None]:
    """Return what fetches a file at the weights' own commit; `None` only where the hub said that it has no such file."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    revision = commit or cast("str | None", options.get("revision"))
    cache = cast("str | None", options.get("cache_dir"))

    def fetch(name: str) -> Path | None:
        cached = try_to_load_from_cache(repository, name, cache_dir=cache, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        if cached is not None:  # the hub was asked before, and has no such file
            return None
        try:
            token = cast("str | bool | None", options.get("token"))
            return Path(hf_hub_download(repository, name, revision=revision, cache_dir=cache, token=token))
        except LocalEntryNotFoundError as error:
            msg = (
                f"whether {repository} has {name} cannot be known: it is not in the cache, and the hub cannot be asked. Load the "
                "model once with a connection, or say that nothing of ours is wanted: steering=None and probe=None"
            )
            raise GuardFilesError(msg) from error
        except EntryNotFoundError:
            return None

    return fetch


def digest(file: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def named_in(folder: Path, name: str) -> Path:
    """Return one of our files in a folder: of a checkpoint, or of `vlmguard fit`, which has it at its root."""
    inside = guard_folder(folder) / name
    return inside if inside.is_file() else folder / name
