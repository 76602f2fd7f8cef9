"""What the tower sees in each picture, computed once and kept in files."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from transformers import AutoProcessor, CLIPVisionModel, LlavaConfig

from langchain_vlmguard.cli.progress import progress_bar
from langchain_vlmguard.files import read_tensors, write_tensors
from vlmguard_lab.reference.assembly import FEATURE_LAYER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from vlmguard_lab.reference.pictures import Picture

View = Literal["plain", "changed"]
CHUNK = 128
"""Pictures in a file; a stopped computation goes on with the next file."""

_TOWER = "model.vision_tower."
_BATCH = 32


class Tower:
    """The vision tower of a checkpoint folder and the processor before it."""

    def __init__(self, folder: Path) -> None:
        """Load the tower alone, in float32."""
        config = LlavaConfig.from_pretrained(folder)
        with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(_TOWER)]  # noqa: SIM118 - not a dict
            weights = {name.removeprefix(_TOWER): file.get_tensor(name).float() for name in names}
        self._model = CLIPVisionModel.from_pretrained(None, config=config.vision_config, state_dict=weights).eval()
        self._processor = AutoProcessor.from_pretrained(folder, backend="pil").image_processor
        digest = hashlib.sha256(repr(self._processor.to_dict()).encode())
        for name, weight in sorted(weights.items()):
            digest.update(name.encode())
            digest.update(weight.numpy().tobytes())
        self.sha256 = digest.hexdigest()
        """Of weights and processor: features of another tower are not mistaken for this one's."""

    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Return what the projector is given, `(pictures, patches, 768)` in float16."""
        with torch.inference_mode():
            pixels = self._processor(list(pictures), return_tensors="pt")["pixel_values"]
            layers = self._model(pixels, output_hidden_states=True).hidden_states
            found: Tensor = layers[FEATURE_LAYER][:, 1:].half()
        return found


def picture_features(tower: Tower, pictures: Sequence[Picture], folder: Path, view: View = "plain") -> Tensor:
    """Return the features of pictures, `(pictures, patches, 768)` in float16, computing those that are in no file yet."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK)]
    found = []
    with progress_bar() as bar:
        task = bar.add_task(f"pictures, {view}", total=len(pictures))
        for chunk in chunks:
            marks = {"content": _digest(tower, chunk, view)}
            path = folder / f"{marks['content'][:24]}.safetensors"
            if not path.exists():
                opened = [_seen(picture, view) for picture in chunk]
                parts = [tower.features(opened[start : start + _BATCH]) for start in range(0, len(opened), _BATCH)]
                write_tensors(path, {"features": torch.cat(parts)}, marks)
            found.append(read_tensors(path, marks, "features of these pictures")[0]["features"])
            bar.advance(task, len(chunk))
    return torch.cat(found)


def _digest(tower: Tower, pictures: Sequence[Picture], view: View) -> str:
    named = "\n".join([tower.sha256, view, *(picture.sha256 for picture in pictures)])
    return hashlib.sha256(named.encode()).hexdigest()


def _seen(picture: Picture, view: View) -> Image.Image:
    return picture.open() if view == "plain" else change(picture.open(), seed=picture.sha256)


def change(picture: Image.Image, *, seed: str) -> Image.Image:
    """Return a picture as another one might show the same: mirrored, smaller, off the centre, on a pale colour."""
    rng = random.Random(f"change:{seed}")
    ground = tuple(rng.randint(170, 255) for _ in range(3))
    edge = max(picture.size)
    share = rng.uniform(0.65, 0.95)
    turned = ImageOps.mirror(picture).resize(
        (max(1, round(picture.width * share)), max(1, round(picture.height * share))), Image.Resampling.BICUBIC
    )
    canvas = Image.new("RGB", (edge, edge), ground)
    place = (rng.randint(0, edge - turned.width), rng.randint(0, edge - turned.height))
    canvas.paste(turned, place)
    return canvas
