"""Readers of sets that measure what a guard costs: refusals of harmless requests, and questions about pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlmguard_lab.evaluation.suites.base import Item, Reader, SuiteCard, first_of, picture, read_csv, read_json
from vlmguard_lab.evaluation.suites.tables import read_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _xstest(folder: Path) -> Iterator[Item]:
    for row in read_csv(first_of(folder, ("xstest_prompts.csv", "xstest_v2_prompts.csv"))):
        harmful = row["label"] == "unsafe"
        yield Item(row["id"], row["prompt"], harmful, row["type"].removeprefix("contrast_"))


def _mossbench(folder: Path) -> Iterator[Item]:
    table = first_of(
        folder, ("sample.json", "data/images_information/information.json", "images_information/information.json")
    )
    rows = read_json(table)
    home = table.parent if table.name == "sample.json" else table.parent.parent
    for row in rows if isinstance(rows, list) else rows.values():
        yield Item(
            str(row["pid"]),
            row["question"],
            harmful=False,
            cell=row.get("type") or row["metadata"]["over"],
            picture=_mossbench_picture(home, row),
            reference={"image_description": row["description"]},
        )


def _mossbench_picture(home: Path, row: dict[str, Any]) -> Path:
    named = row["image"] if "/" in row["image"] else f"images/{row['image']}"
    return picture(home / named)


def _mm_vet(folder: Path) -> Iterator[Item]:
    home = first_of(folder, ("mm-vet.json", "mm-vet/mm-vet.json")).parent
    for key, row in read_json(home / "mm-vet.json").items():
        yield Item(
            key,
            row["question"],
            harmful=False,
            cell="+".join(row["capability"]),
            picture=picture(home / "images" / row["imagename"]),
            reference={"right": row["answer"]},
        )


def _mme(folder: Path) -> Iterator[Item]:
    for row in read_table(folder):
        yield Item(
            f"{row['question_id']}:{row['question'][:80]}",
            row["question"],
            harmful=False,
            cell=row["category"],
            picture=picture(folder / row["image"]),
            reference={"yes_no": row["answer"]},
        )


BENIGN_SETS = (
    Reader(
        SuiteCard(
            "xstest",
            "github paul-rottger/exaggerated-safety",
            "CC BY 4.0",
            "test only",
            "xstest_prompts.csv (id, prompt, type, label: safe or unsafe)",
        ),
        _xstest,
    ),
    Reader(
        SuiteCard(
            "mossbench",
            "github turningpoint-ai/MOSSBench",
            "CC BY-SA 4.0; its README forbids training on it",
            "test only",
            "sample.json or data/images_information/information.json (pid, image, question, description, type or metadata.over)",
        ),
        _mossbench,
    ),
    Reader(
        SuiteCard(
            "mm-vet",
            "github yuweihao/MM-Vet, release mm-vet.zip",
            "CC BY-NC 4.0",
            "test only",
            "mm-vet.json ({id: {imagename, question, answer, capability}}) and images/",
            confirmed=False,
        ),
        _mm_vet,
    ),
    Reader(
        SuiteCard(
            "mme",
            "hub lmms-lab/MME",
            "research use, terms of its own",
            "test only",
            "*.parquet or *.jsonl (question_id, question, answer: Yes or No, category, image)",
            confirmed=False,
        ),
        _mme,
    ),
)
