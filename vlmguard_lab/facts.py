"""The facts of a run: on which day, on what machine and with which versions something was measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from langchain_vlmguard._version import __version__

PACKAGES = ("torch", "transformers", "langchain-core")
"""What every measurement depends on."""


def run_facts(*packages: str) -> dict[str, Any]:
    """Return `{"date", "machine", "versions"}` of a run that starts now.

    Args:
        *packages: Packages that this measurement depends on beside `PACKAGES`.
    """
    return {"date": today(), "machine": machine(), "versions": versions(*packages)}


def today() -> str:
    """Return the date in UTC, as `2026-11-28`."""
    return datetime.now(UTC).date().isoformat()


def machine() -> str:
    """Return the machine in words: its cores, and that they were shared if they were busy before the run."""
    cores, load = available_cores(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    shared = f", shared: load {load:.1f} when it began" if load > cores / 2 else ""
    return f"{cores} CPU cores ({platform.machine()}){shared}"


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of this package, of Python, of `PACKAGES` and of others, as far as they are installed."""
    found = {"langchain_vlmguard": __version__, "python": platform.python_version()}
    for name in (*PACKAGES, *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
