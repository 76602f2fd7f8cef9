"""Rule F: every request has one owner, every wait an end, and limits count what is unpacked. Cases 26, 27 and 29."""

import base64
import gzip
import json
import random
import resource
import socket
import struct
import threading
import time
import zlib

import pytest

from tests.serving.rules import BLOCKME, BREAKME, DOZEME, HOLDME, SLEEPME
from tests.serving.running import asks, running, send
from tests.serving.upstream import Script, completion, plays, whole

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def until(found, seconds=1.0):
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found():
            return True
        time.sleep(0.01)
    return False


def number(server, name):
    text = send(server.port, b"", "/metrics", method="GET").body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.split("\n") if line.startswith(name))


def at_rest(server):
    """Whether the numbers say that nothing runs or waits."""
    return number(server, "vlmguard_running") == number(server, "vlmguard_waiting") == 0


def test_case_26_a_client_that_leaves_is_noticed(up, tmp_path, way):
    up.script = plays(way.stream)
    up.script.steps.insert(1 if way.stream else 0, 30.0)
    with running(up, tmp_path, keep_alive={"seconds": 30}) as server:
        way.ask(server, leave_after=0.7)
        left = time.monotonic()
        assert until(lambda: up.requests and not up.open)
        assert server.idle()
        assert until(lambda: number(server, "vlmguard_clients_left_total") == 1)
        assert until(lambda: at_rest(server), 0.2)
        assert time.monotonic() - left < 1


def test_case_26_also_while_it_is_judged(up, tmp_path, stream):
    with running(up, tmp_path) as server:
        send(server.port, asks(DOZEME, stream=stream), leave_after=0.2)
        assert until(lambda: number(server, "vlmguard_clients_left_total") == 1)
        assert server.idle(2)
        assert not up.requests


def test_case_26_also_while_it_waits_in_the_queue(up, tmp_path):
    go = threading.Event()
    up.script = whole(completion())
    up.script.steps.insert(0, go)
    with running(up, tmp_path, limits={"at_once": 1, "queue": 2}) as server:
        first = threading.Thread(target=send, args=(server.port, asks()))
        first.start()
        assert until(lambda: up.open)
        send(server.port, asks(), leave_after=0.3)
        assert until(lambda: not server.jobs.waiting)
        assert server.jobs.running == 1
        go.set()
        first.join()
        assert server.idle()
        assert len(up.requests) == 1


def test_case_26_what_is_held_for_a_person_holds_nothing(up, tmp_path, way):
    with running(up, tmp_path, limits={"at_once": 1, "queue": 0}) as server:
        assert way.ask(server, HOLDME).status == 409
        assert server.idle()
        assert at_rest(server)
        up.script = plays(way.stream)
        assert way.ask(server).said == "fine"


def test_case_27_no_failure_keeps_a_slot(up, tmp_path, stream):
    limits = {"at_once": 1, "queue": 1, "seconds": 0.8}
    bad = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}
    gone = {"kind": "upstream", "url": "http://127.0.0.1:9/v1", "models": ["gone"], "connect_seconds": 0.2}

    def queued():
        """One that runs too long, one that leaves while it waits, and one for which there is no room."""
        up.scripts = [Script([30.0])]
        first = threading.Thread(target=send, args=(server.port, asks(stream=stream)))
        first.start()
        assert until(lambda: server.jobs.running)
        second = threading.Thread(target=send, args=(server.port, asks(stream=stream)), kwargs={"leave_after": 0.2})
        second.start()
        assert until(lambda: server.jobs.waiting)
        assert send(server.port, asks(stream=stream)).status == 429
        first.join()
        second.join()

    with running(up, tmp_path, limits=limits, keep_alive={"seconds": 10}) as server:
        up.script = whole({"error": 1}, 500)
        ways = [
            lambda: send(server.port, asks(stream=stream) | {"messages": [bad]}),
            lambda: send(server.port, asks(BREAKME, stream=stream)),
            lambda: send(server.port, asks(BLOCKME, stream=stream)),
            lambda: send(server.port, asks(HOLDME, stream=stream)),
            lambda: send(server.port, asks(stream=stream)),
            lambda: send(server.port, asks(DOZEME, stream=stream), leave_after=0.05),
            lambda: send(server.port, asks(stream=stream, n=3)),
            lambda: send(server.port, b"{"),
            lambda: send(server.port, {"texts": [BREAKME]}, "/beta/litellm_basic_guardrail_api"),
            queued,
        ]
        for _ in range(2):
            for one in ways:
                one()
                assert server.idle(4)
        up.scripts = [Script([30.0])]
        late = send(server.port, asks(stream=stream))
        assert (late.status, late.json["error"]["code"]) == (503, "deadline")
        assert until(lambda: not up.open)
        up.script = whole(completion())
        started = time.monotonic()
        assert send(server.port, asks()).said == "fine"
        assert time.monotonic() - started < 1
        assert server.idle()
        assert at_rest(server)
    with running(up, tmp_path, backend=gone, limits=limits) as server:
        for _ in range(3):
            wire = send(server.port, {**asks(stream=stream), "model": "gone"})
            assert (wire.status, wire.json["error"]["code"]) == (503, "upstream_failed")
        assert server.idle()


def test_guard_work_never_stands_in_the_way_of_health(up, tmp_path):
    with running(up, tmp_path, keep_alive={"seconds": 0.2}) as server:
        slow = threading.Thread(target=send, args=(server.port, asks(SLEEPME)))
        slow.start()
        assert until(lambda: server.jobs.running)
        started = time.monotonic()
        assert send(server.port, b"", "/healthz", method="GET").status == 200
        assert time.monotonic() - started < 0.5
        slow.join()
        assert server.rules.threads <= {name for name in server.rules.threads if name.startswith("asyncio_")}


def bomb():
    """50 MB of zeros inside a JSON text, packed."""
    return gzip.compress(b'{"a": "' + b"0" * 50_000_000 + b'"}')


def huge_png():
    """A PNG whose header claims 60,000 x 60,000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"\0" * 100)) + part(b"IEND", b"")


def test_case_29_limits_count_what_is_unpacked(up, tmp_path):
    with running(up, tmp_path, limits={"body_bytes": 10_000_000}) as server:
        data, before = bomb(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for coding, packed in (("gzip", data), ("deflate", zlib.compress(b"0" * 50_000_000))):
            wire = send(server.port, packed, headers={"content-encoding": coding})
            assert (wire.status, wire.json["error"]["code"]) == (413, "body_too_large")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB
        assert send(server.port, b"0" * 11_000_000).status == 413
        assert chunked(server.port, 11_000_000).startswith(b"HTTP/1.1 413")
        assert send(server.port, data[:1000], headers={"content-encoding": "gzip"}).status in (400, 413)
        assert send(server.port, b"rubbish", headers={"content-encoding": "gzip"}).status == 400
        uri = "data:image/png;base64," + base64.b64encode(huge_png()).decode()
        messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}]}]
        wire = send(server.port, {"messages": messages})
        assert (wire.status, wire.json["error"]["code"]) == (400, "unreadable_content")
        assert not up.requests
        small = gzip.compress(json.dumps(asks()).encode())
        assert send(server.port, small, headers={"content-encoding": "gzip"}).said == "fine"


def chunked(port, size):
    """Send a body in chunks, without a length, and return the beginning of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        piece = b"%x\r\n" % 100_000 + b"0" * 100_000 + b"\r\n"
        try:
            for _ in range(size // 100_000):
                client.sendall(piece)
        except OSError:
            pass
        return client.recv(1000)


def test_case_29_a_body_that_does_not_come_has_an_end(up, tmp_path):
    with (
        running(up, tmp_path, limits={"body_seconds": 0.3}) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as client,
    ):
        client.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        said = b""
        while b"body_timeout" not in said and (piece := client.recv(4096)):
            said += piece
        assert said.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("value", ["\ud800 hi", "a\x00b", "\u202e"])
def test_odd_letters_give_no_server_error(up, tmp_path, value, stream):
    with running(up, tmp_path) as server:
        assert send(server.port, asks(value, stream=stream)).status == 200


def test_case_29_bodies_that_are_on_their_way_are_counted(up, tmp_path):
    with running(up, tmp_path, limits={"at_once": 1, "queue": 1, "body_seconds": 5}) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(2)]
        for client in slow:
            client.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        assert until(lambda: send(server.port, asks()).status == 429)
        for client in slow:
            client.close()
        assert until(lambda: send(server.port, asks()).status == 200)


def test_case_26_no_connection_to_the_upstream_stays_behind(up, tmp_path):
    """Clients that leave at every moment, also between the connection and the request that it was made for."""
    up.script = whole(completion())
    up.script.steps.insert(0, 0.3)
    with running(up, tmp_path, limits={"at_once": 50}) as server:

        def leave(seed):
            chance = random.Random(seed)
            for _ in range(15):
                send(server.port, asks(), leave_after=chance.uniform(0, 0.06))

        leaving = [threading.Thread(target=leave, args=(seed,)) for seed in range(12)]
        for one in leaving:
            one.start()
        for one in leaving:
            one.join()
        assert server.idle(60)  # of many at once, on a machine that may be busy
        assert until(lambda: not up.open, 20)
        assert send(server.port, asks()).said == "fine"
