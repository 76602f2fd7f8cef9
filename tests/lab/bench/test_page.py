"""Generated texts stand between their marks, and nothing else on a page is touched."""

import re

import pytest

from vlmguard_lab.bench import page

MARK = re.compile(r"^ *<!-- (.+) -->$", re.MULTILINE)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(
        "before\n  <!-- begin one -->\n  old\n  <!-- end one -->\nafter\n<!-- begin two -->\n<!-- end two -->\n"
    )
    return path


def test_a_text_replaces_what_stood_between_its_marks_and_is_indented_as_they_are(file):
    page.place(file, {"one": "new\nlines", "two": r"\1 | \g<0>"})
    one = "  <!-- begin one -->\n  new\n  lines\n  <!-- end one -->\n"
    two = "<!-- begin two -->\n\\1 | \\g<0>\n<!-- end two -->\n"
    assert file.read_text() == f"before\n{one}after\n{two}"


def test_a_page_without_a_place_stays_as_it_was(file):
    before = file.read_text()
    with pytest.raises(ValueError, match="no place for 'three'"):
        page.place(file, {"one": "new", "three": "text"})
    assert file.read_text() == before


def test_a_table_is_written_in_one_way():
    assert page.table(["a", "b"], [["x|y", "z"]]) == "| a | b |\n| --- | --- |\n| x\\|y | z |"


def test_every_mark_of_the_pages_is_spelt_alike_and_closed():
    for path in (page.README, *page.DOCS.glob("*.md")):
        opened = []
        for mark in MARK.findall(path.read_text()):
            kind, _, name = mark.partition(" ")
            if kind == "begin":
                opened.append(name)
            else:
                assert (kind, name) == ("end", opened.pop()), f"{path.name}: {mark}"
        assert not opened, path.name
