"""Rule F: the server's own end. Case 28: not ready, no new work, running answers finish, what is held is told, exit 0."""

import json
import signal
import threading
import time

from tests.serving.rules import HOLDME
from tests.serving.running import asks, send, started, write_config
from tests.serving.upstream import DONE, completion, event, streamed, whole


def test_case_28_sigterm_ends_in_order(up, tmp_path):
    config = write_config(tmp_path, up, drain={"pause": 0.5, "grace": 2.5}, keep_alive={"seconds": 0.3})
    process, port = started(config)
    log = []
    reading = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)
    reading.start()
    assert send(port, asks(HOLDME)).status == 409  # a review that waits keeps nobody
    fast = whole(completion())
    fast.steps.insert(0, 1.5)
    up.scripts = [fast, streamed(event({"content": "never"}), 60.0, DONE)]
    found = {}

    def ask(name, **fields):
        found[name] = send(port, asks(**fields))

    threads = [
        threading.Thread(target=ask, args=("fast",)),
        threading.Thread(target=ask, args=("held",), kwargs={"stream": True}),
    ]
    for at, thread in enumerate(threads):
        thread.start()
        while len(up.requests) <= at:
            time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.25)
    ready = send(port, b"", "/readyz", method="GET")
    new = send(port, asks())
    assert send(port, b"", "/healthz", method="GET").json == {"status": "ok", "draining": True}
    assert (ready.status, ready.json["error"]["code"]) == (503, "draining")
    assert (new.status, new.json["error"]["code"]) == (503, "draining")
    assert 1 <= int(new.headers["retry-after"]) <= 60
    assert process.wait(10) == 0
    assert time.monotonic() - began < 0.5 + 2.5 + 1.0 + 1.0  # pause, grace, and a second; one more for a busy machine
    for thread in threads:
        thread.join(5)
    assert found["fast"].said == "fine"
    [said] = found["held"].data
    assert json.loads(said)["error"]["code"] == "draining"
    assert b"never" not in found["held"].raw
    assert len(up.requests) == 2
    reading.join(5)
    lines = [json.loads(line) for line in log]
    assert "draining" in [line.get("said") for line in lines]
    assert all(HOLDME not in line for line in log)
