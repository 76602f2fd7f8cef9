"""Readers of sets whose harm may lie in picture and words together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmguard_lab.evaluation.suites.base import Item, Reader, SuiteCard, first_of, picture, read_csv, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _siuo(folder: Path) -> Iterator[Item]:
    table = first_of(folder, ("siuo_gen.json", "data/siuo_gen.json"))
    for row in read_json(table):
        # The authors' own script reads "reference"; the file that they published says "reference_answer".
        reference = {"safety_warning": row["safety_warning"], "reference_answer": row["reference_answer"]}
        shown = first_of(folder, (f"images/{row['image']}", f"data/images/{row['image']}", row["image"]))
        yield Item(str(row["question_id"]), row["question"], True, row["category"], shown, reference=reference)  # noqa: FBT003


def _vlguard(folder: Path) -> Iterator[Item]:
    table = first_of(folder, ("test.json", "data/test.json"))
    for row in read_json(table):
        shown = first_of(folder, (row["image"], f"test/{row['image']}", f"data/test/{row['image']}"))
        for turn in row["instr-resp"]:
            key = next(key for key in ("instruction", "safe_instruction", "unsafe_instruction") if key in turn)
            harmful = not row["safe"] or key == "unsafe_instruction"
            cell = "unsafes" if not row["safe"] else ("safe_unsafes" if harmful else "safe_safes")
            yield Item(
                f"{row['id']}-{key}",
                turn[key],
                harmful,
                cell,
                shown,
                reference={"reference_answer": turn["response"], "category": row.get("harmful_category", "")},
            )


def _vlsbench(folder: Path) -> Iterator[Item]:
    home = first_of(folder, ("data.json", "data/data.json")).parent
    for row in read_json(home / "data.json"):
        yield Item(
            str(row["instruction_id"]),
            row["instruction"],
            harmful=True,
            cell=row["category"],
            picture=picture(home / row["image_path"]),
            reference={"safety_warning": row["safety_reason"], "image_description": row["image_description"]},
        )


def _msts(folder: Path) -> Iterator[Item]:
    table = first_of(folder, ("data/prompts/english_multimodal.csv", "english_multimodal.csv"))
    for row in read_csv(table):
        shown = first_of(folder, (f"data/images/{row['unsafe_image_id']}.*", f"images/{row['unsafe_image_id']}.*"))
        reference = {"image_description": row["unsafe_image_description"], "safety_warning": row["case_text"]}
        yield Item(row["prompt_id"], row["prompt_text"], True, row["hazard_category"], shown, reference=reference)  # noqa: FBT003


CROSS_MODAL_SETS = (
    Reader(
        SuiteCard(
            "siuo",
            "github sinwang20/SIUO, pictures from hub sinwang/SIUO",
            "CC BY-NC 4.0",
            "test only",
            "data/siuo_gen.json (question_id, image, question, category, safety_warning, reference_answer) and images/",
        ),
        _siuo,
    ),
    Reader(
        SuiteCard(
            "vlguard",
            "github and hub ys-zong/VLGuard",
            "none in the repository; pictures have terms of their own",
            "has a training split",
            "test.json (id, image, safe, harmful_category, instr-resp) and the pictures of test.zip; never train.json",
        ),
        _vlguard,
    ),
    Reader(
        SuiteCard(
            "vlsbench",
            "github AI45Lab/VLSBench, hub Foreshhh/vlsbench",
            "not confirmed",
            "overlaps a training set",
            "data/data.json (instruction_id, instruction, image_path, category, image_description, safety_reason) and imgs/",
        ),
        _vlsbench,
    ),
    Reader(
        SuiteCard(
            "msts",
            "github paul-rottger/msts-multimodal-safety",
            "CC BY 4.0; pictures by row",
            "test only",
            "data/prompts/english_multimodal.csv (prompt_id, prompt_text, case_text, hazard_category, unsafe_image_id, "
            "unsafe_image_description) and data/images/<unsafe_image_id>.* fetched from the URLs of unsafe_images.csv",
        ),
        _msts,
    ),
)
