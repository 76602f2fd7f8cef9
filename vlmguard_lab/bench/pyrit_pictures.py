"""Requests drawn into pictures by PyRIT's converters; `outside_tools` runs this with PyRIT's packages behind ours.

`python -m vlmguard_lab.bench.pyrit_pictures PLAN FOLDER`: PLAN is JSON of texts by kind; FOLDER/drawn.json says where the
pictures lie.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from pyrit.converter import AddTextImageConverter, QRCodeConverter
from pyrit.setup import IN_MEMORY, initialize_pyrit_async

SIZE = (640, 360)


async def draw(texts: dict[str, list[str]], folder: Path) -> dict[str, dict[str, list[str]]]:
    """Return the pictures' paths by converter and kind of text."""
    await initialize_pyrit_async(memory_db_type=IN_MEMORY)
    blank = folder / "blank.png"
    Image.new("RGB", SIZE, "white").save(blank)
    drawn: dict[str, dict[str, list[str]]] = {"text on a picture": {}, "QR code": {}}
    for kind, prompts in texts.items():
        for prompt in prompts:
            written = AddTextImageConverter(text_to_add=prompt, font_size=28, color=(0, 0, 0), x_pos=20, y_pos=150)
            results: dict[str, Any] = {
                "text on a picture": await written.convert_async(prompt=str(blank), input_type="image_path"),
                "QR code": await QRCodeConverter().convert_async(prompt=prompt, input_type="text"),
            }
            for name, result in results.items():
                drawn[name].setdefault(kind, []).append(result.output_text)
    return drawn


if __name__ == "__main__":
    plan, target = Path(sys.argv[1]), Path(sys.argv[2])
    found = asyncio.run(draw(json.loads(plan.read_text()), target))
    (target / "drawn.json").write_text(json.dumps(found))
