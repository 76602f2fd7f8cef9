"""Rule: our files lie in a folder of their own with a manifest; missing, partial or foreign ones stop the start."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest

from langchain_vlmguard.errors import GuardFilesError
from langchain_vlmguard.files import read_json, write_json
from langchain_vlmguard.models.checkpoints import checkpoint_path
from langchain_vlmguard.models.guard_files import (
    DIRECTIONS_FILE,
    FOLDER,
    MANIFEST,
    PROBE_FILE,
    ModelHashes,
    find_guard_files,
    named_in,
    write_guard_files,
)
from langchain_vlmguard.models.loading import LoadedVLM, load_vlm
from langchain_vlmguard.models.steered_vlm import ChatSteeredVLM

TESTBED = Path(checkpoint_path("testbed"))
REPOSITORY, COMMIT = "someone/tiny", "0" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TESTBED, tmp_path / "checkpoint"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a snapshot of the testbed in a cache of the hub's layout; the hub itself cannot be asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    root = tmp_path / "cache" / "models--someone--tiny"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(TESTBED, root / "snapshots" / COMMIT))


def hub_model(snapshot: Path, **options: object) -> ChatSteeredVLM:
    return ChatSteeredVLM.from_pretrained(
        REPOSITORY, device="cpu", model_kwargs={"cache_dir": str(snapshot.parents[2])}, **options
    )


def hashes(file: Path = TESTBED / FOLDER / MANIFEST) -> ModelHashes:
    return ModelHashes(**read_json(file)["model"])


def test_no_file_of_ours_lies_where_engines_read_weights(testbed: LoadedVLM):
    assert [file.name for file in TESTBED.glob("*.safetensors")] == ["model.safetensors"]
    assert testbed.directions is not None
    assert testbed.probe is not None


def test_the_old_place_is_still_read(folder: Path, testbed: LoadedVLM):
    for name in (DIRECTIONS_FILE, PROBE_FILE):
        (folder / FOLDER / name).rename(folder / name)
    shutil.rmtree(folder / FOLDER)
    loaded = load_vlm(str(folder), device="cpu")
    assert loaded.directions is not None
    assert loaded.directions.hash == testbed.directions.hash
    assert loaded.probe is not None


def test_written_files_are_found_and_the_old_copies_go(folder: Path, testbed: LoadedVLM):
    (folder / FOLDER / DIRECTIONS_FILE).rename(folder / DIRECTIONS_FILE)
    shutil.rmtree(folder / FOLDER)
    write_guard_files(folder, directions=testbed.directions)
    write_guard_files(folder, probe=testbed.probe)
    assert find_guard_files(str(folder), {}, hashes(), None).keys() == {DIRECTIONS_FILE, PROBE_FILE}
    assert not (folder / DIRECTIONS_FILE).exists()
    assert named_in(folder, DIRECTIONS_FILE) == folder / FOLDER / DIRECTIONS_FILE


def _no_manifest(folder: Path) -> None:
    (folder / FOLDER / MANIFEST).unlink()


def _empty_folder(folder: Path) -> None:
    shutil.rmtree(folder / FOLDER)
    (folder / FOLDER).mkdir()


def _no_directions(folder: Path) -> None:
    (folder / FOLDER / DIRECTIONS_FILE).unlink()


def _changed(folder: Path) -> None:
    with (folder / FOLDER / PROBE_FILE).open("ab") as file:
        file.write(b" ")


def _cut(folder: Path) -> None:
    (folder / FOLDER / MANIFEST).write_text("{")


def _edited(folder: Path, **changes: object) -> None:
    write_json(folder / FOLDER / MANIFEST, {**read_json(folder / FOLDER / MANIFEST), **changes})


def _unlisted(folder: Path) -> None:
    files = read_json(folder / FOLDER / MANIFEST)["files"]
    _edited(folder, files={PROBE_FILE: files[PROBE_FILE]})


def _elsewhere(folder: Path) -> None:
    _edited(folder, files={"../config.json": "0" * 64})


def _two(folder: Path) -> None:
    shutil.copy(folder / FOLDER / PROBE_FILE, folder / DIRECTIONS_FILE)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_manifest, "without manifest.json"),
        (_empty_folder, "without manifest.json"),
        (_no_directions, "is missing"),
        (_changed, "was changed"),
        (_cut, "cannot be read"),
        (lambda folder: _edited(folder, model={"config_hash": "a", "weights_hash": "b"}), "another model"),
        (lambda folder: _edited(folder, format=2), "no manifest of format"),
        (lambda folder: _edited(folder, files={}), "no manifest of format"),
        (_elsewhere, "no manifest of format"),
        (_unlisted, "not listed"),
        (_two, "two different files"),
    ],
)
def test_spoiled_files_stop_the_start(folder: Path, spoil, said: str):
    spoil(folder)
    with pytest.raises(GuardFilesError, match=said):
        find_guard_files(str(folder), {}, hashes(), None)


def test_a_spoiled_checkpoint_does_not_load_as_if_it_had_no_guard(folder: Path):
    _no_directions(folder)
    with pytest.raises(GuardFilesError, match="is missing"):
        ChatSteeredVLM.from_pretrained(str(folder))
    assert ChatSteeredVLM.from_pretrained(str(folder), steering=None, probe=None).loaded.directions is None


def test_a_hub_repository_brings_its_directions(hub: Path, testbed: LoadedVLM):
    model = hub_model(hub)
    assert model.loaded.directions.hash == testbed.directions.hash
    assert model.loaded.probe is not None


def test_a_partial_snapshot_is_refused(hub: Path):
    (hub / FOLDER / DIRECTIONS_FILE).unlink()
    with pytest.raises(GuardFilesError, match=f"whether {REPOSITORY} has {FOLDER}/{DIRECTIONS_FILE} cannot be known"):
        hub_model(hub)


def test_a_snapshot_of_weights_alone_is_refused_until_the_hub_has_said_that_there_is_nothing(hub: Path):
    shutil.rmtree(hub / FOLDER)
    with pytest.raises(GuardFilesError, match="steering=None and probe=None"):
        hub_model(hub)
    assert hub_model(hub, steering=None, probe=None).loaded.probe is None
    for name in (
        DIRECTIONS_FILE,
        PROBE_FILE,
        *(f"{FOLDER}/{name}" for name in (DIRECTIONS_FILE, PROBE_FILE, MANIFEST)),
    ):
        file = hub.parents[1] / ".no_exist" / COMMIT / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert hub_model(hub).loaded.directions is None


def test_files_of_another_commit_are_not_taken(hub: Path):
    other = hub.parent / ("1" * 40)
    other.mkdir()
    shutil.move(hub / FOLDER, other / FOLDER)
    (hub.parents[1] / "refs" / "new").write_text("1" * 40)
    with pytest.raises(GuardFilesError, match="cannot be known"):
        hub_model(hub)


def test_nothing_to_write_is_an_error(folder: Path):
    with pytest.raises(ValueError, match="one and the same model"):
        write_guard_files(folder)
