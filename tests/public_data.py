"""Sets of other people's data that lie beside the repository, where they are read in place."""

import os
from pathlib import Path

import pytest


def public_set(name):
    """Return the folder of a set: in the folder that the environment names, or beside the repository; skip where it is not."""
    named = os.environ.get("VLMGUARD_TEST_DATA")
    places = [*([Path(named)] if named else []), *(parent / "shared/data" for parent in Path(__file__).parents)]
    found = next((place / name for place in places if (place / name).is_dir()), None)
    if found is None:
        pytest.skip(f"{name} is not here: set VLMGUARD_TEST_DATA to the folder that holds it")
    return found
