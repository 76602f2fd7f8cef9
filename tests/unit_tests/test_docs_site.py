"""The documents as a site: every page has its place, and every public name is described on one."""

import re
from pathlib import Path

import pytest
import yaml

import langchain_vlmguard

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


class _Loader(yaml.SafeLoader):
    """Reads the file of the site, whose theme may name Python objects."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def pages(nav):
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else pages(value)


@pytest.fixture(scope="module")
def site():
    return yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=_Loader)  # noqa: S506 - a safe loader


def test_every_page_has_a_place_in_the_menu(site):
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert sorted(pages(site["nav"])) == sorted(there)


def test_what_is_described_is_public_or_part_of_what_is():
    named = re.findall(r"^::: (\S+)$", "".join(page.read_text() for page in (DOCS / "api").glob("*.md")), re.MULTILINE)
    classes = {name.rpartition(".")[2] for name in named}
    guards = {"Guard", "VLMGuardMiddleware", "create_vlm_guard", "VLMGuardNode", "GuardedChatModel", "load_guard"}
    others = {
        "ChatSteeredVLM",
        "ReasoningRewriter",
        "GateJudge",
        "SafetyDirections",
        "Steering",
        "GuardPolicy",
        "SafetyVerdict",
    }
    assert guards | others <= classes & {*langchain_vlmguard.__all__}


@pytest.mark.lab
def test_the_site_is_built_without_a_warning(tmp_path, monkeypatch):
    build = pytest.importorskip("mkdocs.commands.build", reason="the extra `docs` is not installed")
    from mkdocs.config import load_config

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    monkeypatch.chdir(ROOT)
    build.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    page = (tmp_path / "site/api/guards/index.html").read_text()
    assert "VLMGuardMiddleware" in page
    assert (tmp_path / "site/search/search_index.json").is_file()
