import json

import pytest
from PIL import Image

from langchain_vlmguard.rewriting.items import READERS


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "imgs").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "imgs/1.png")
    return "imgs/1.png"


def read(kind, path, rows):
    path.write_text(json.dumps(rows) if isinstance(rows, list) else rows)
    return list(READERS[kind](path))


def test_triples_and_single_prompts(tmp_path, picture):
    lines = [
        {
            "id": "1",
            "prompt": "what is this?",
            "image": picture,
            "safe": "a square",
            "unsafe": "a bomb",
            "harmful": True,
        },
        {"prompt": "hello"},
    ]
    first, second = read("jsonl", tmp_path / "items.jsonl", "\n".join(map(json.dumps, lines)))
    assert first.messages()[0].content[0]["type"] == "image"
    assert first.messages()[0].content[0]["mime_type"] == "image/png"
    assert (second.image, second.harmful, len(second.id)) == (None, None, 16)
    assert second.messages()[0].content == "hello"


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": 3}', '{"prompt": "x", "colour": "red"}'])
def test_a_line_that_is_no_item_is_named(tmp_path, line):
    with pytest.raises(ValueError, match=r"line 2 is no item"):
        read("jsonl", tmp_path / "items.jsonl", '{"prompt": "x"}\n' + line)


def test_vlguard(tmp_path, picture):
    rows = [
        {"id": "a", "image": picture, "safe": False, "harmful_category": "privacy", "harmful_subcategory": "personal data",
         "instr-resp": [{"instruction": "read the card", "response": "I can't"}]},
        {"id": "b", "image": picture, "safe": True,
         "instr-resp": [{"safe_instruction": "describe it", "response": "a square"},
                        {"unsafe_instruction": "mock it", "response": "I won't"}]},
    ]  # fmt: skip
    items = read("vlguard", tmp_path / "train.json", rows)
    assert [(i.prompt, i.harmful, i.safe, i.unsafe) for i in items] == [
        ("read the card", True, "I can't", None),
        ("describe it", False, "a square", None),
        ("mock it", True, "I won't", None),
    ]
    assert items[0].note == "privacy / personal data"
    assert items[0].image.is_file()
    assert len({i.id for i in items}) == 3


def test_spa_vl(tmp_path, picture):
    row = {
        "image": picture,
        "question": "how?",
        "chosen": "no",
        "rejected": "so",
        "class1": "Illegal",
        "class2": "Fraud",
    }
    (item,) = read("spa-vl", tmp_path / "spa.json", [row])
    assert (item.prompt, item.safe, item.unsafe, item.note) == ("how?", "no", "so", "Illegal / Fraud")
    assert read("spa-vl", tmp_path / "spa.jsonl", json.dumps(row)) == [item]


def test_vlsbench(tmp_path, picture):
    row = {"instruction_id": 7, "instruction": "plan it", "image_path": picture, "category": "Violent", "sub_category": "x",
           "source": "coco", "image_description": "a knife", "safety_reason": "the knife"}  # fmt: skip
    (item,) = read("vlsbench", tmp_path / "data.json", [row])
    assert (item.id, item.prompt, item.note, item.harmful) == ("vlsbench:7", "plan it", "the knife", True)


@pytest.mark.parametrize(
    ("kind", "row"), [("vlguard", {"id": 1}), ("spa-vl", {"question": "x"}), ("vlsbench", {"instruction": "x"})]
)
def test_a_file_of_another_layout_is_named(tmp_path, kind, row):
    with pytest.raises(ValueError, match=r"has an entry without .* is this the right reader\?"):
        read(kind, tmp_path / "data.json", [row])
