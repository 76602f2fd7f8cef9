import json

import pytest

from langchain_vlmguard.errors import EvaluationError
from tests.pictures import png
from vlmguard_lab.bench import pictures


def test_every_file_of_a_folder_is_decoded_or_refused(tmp_path, monkeypatch):
    folder = tmp_path / "strangers"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(png())
    (folder / "deep" / "b.jpg").write_bytes(png(fmt="JPEG")[:-40])
    (folder / "c.txt").write_text("no picture")
    pictures.run(folder, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["files"], found["decoded"], found["refused"], found["crashed"]) == (3, 1, 2, 0)
    assert found["slow"] == []
    assert found["most_mb"] >= 0
    monkeypatch.setattr(pictures, "LONGEST", 0.001)
    with pytest.raises(EvaluationError, match="3 of 3 files broke the reader"):
        pictures.run(folder, tmp_path / "found.json")


def test_a_folder_without_files_is_an_error(tmp_path):
    with pytest.raises(EvaluationError, match="no files"):
        pictures.run(tmp_path, tmp_path / "found.json")
