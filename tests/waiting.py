"""Wait for what another thread does, no longer than it takes."""

import time


def wait_until(condition, seconds=20.0):
    """Return once `condition()` holds.

    Raises:
        AssertionError: It does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
