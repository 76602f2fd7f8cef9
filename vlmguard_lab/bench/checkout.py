"""Commands that read and write the files of a checkout, and say so anywhere else."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from langchain_vlmguard.errors import EvaluationError
from vlmguard_lab.bench import page


class CheckoutCommand(TyperCommand):
    """A command that needs the project's tests, examples or pages beside the packages."""

    def invoke(self, ctx: Any) -> object:
        """Run the command.

        Raises:
            EvaluationError: The packages were installed without their checkout. Nothing was measured.
        """
        if not (page.ROOT / "pyproject.toml").is_file():
            msg = (
                f"{ctx.command_path} reads and writes files of the project: clone it, "
                "and run this after `pip install -e '.[dev]'` there"
            )
            raise EvaluationError(msg)
        return super().invoke(ctx)
