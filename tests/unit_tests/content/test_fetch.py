import time
from io import BytesIO

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import ValidationError

from langchain_vlmguard import GuardPolicy, UnreadableContentError, create_vlm_guard
from langchain_vlmguard.content import fetch as fetching
from langchain_vlmguard.content.fetch import PictureFetcher, split_address
from langchain_vlmguard.content.messages import read_turn
from langchain_vlmguard.verdict.limits import ReadLimits
from tests.chat_models import ScriptedModel
from tests.picture_server import PICTURE, picture_server, trusting
from tests.pictures import b64
from tests.rewrites import Judge

OURS, INTERNAL, STRANGER = "pictures.test", "internal.test", "stranger.test"


class Names:
    """A name server whose answers can change from one question to the next."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    def __call__(self, host, port):
        self.asked.append(host)
        found = self.answers[host.partition(".")[0]]
        return found.pop(0) if isinstance(found[0], list) else found


@pytest.fixture(scope="module")
def server():
    with picture_server(OURS, INTERNAL) as running:
        yield running


@pytest.fixture(scope="module")
def internal():
    with picture_server(OURS, INTERNAL, address="127.0.0.2") as running:
        yield running


@pytest.fixture
def fetch(server):
    """Fetch from the server as from a public host; 127.0.0.2 is as private as it is."""

    def fetch(path, *, names=None, url=None, **options):
        names = names or Names(pictures=["127.0.0.1"], internal=["127.0.0.2"])
        fetcher = fetcher_to(names, **{"seconds": 5.0, **options})
        port = server.server_port
        return fetcher.fetch(url or f"https://{OURS}:{port}/{path}", {f"{OURS}:{port}", f"{INTERNAL}:{port}"}, 50_000)

    return fetch


def fetcher_to(names, **options):
    return PictureFetcher(allow_networks=("127.0.0.1/32",), ssl_context=trusting(), resolve=names, **options)


@pytest.mark.parametrize(
    "path", ["picture", "unsized", "redirect?/picture", "redirect?unsized", "redirect?/redirect%3F/picture"]
)
def test_a_picture_is_fetched(fetch, path):
    assert fetch(path) == PICTURE


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "status 404"),
        ("promises_more", "promised"),
        ("promises_much", "larger than 50,000 bytes"),
        ("without_end", "larger than 50,000 bytes"),
        ("compressed", "compressed"),
        ("garbage", "could not be fetched"),
        ("redirect", "not a plain https|redirects more"),
        ("redirect?/redirect%3F/redirect%253F/redirect%25253F/picture", "redirects more than 3 times"),
        ("redirect?http://pictures.test/picture", "not a plain https one"),
        ("redirect?file:///etc/passwd", "not a plain https one"),
        ("redirect?//stranger.test/picture", "not among those"),
        ("redirect?https://169.254.169.254/latest/meta-data/", "not among those"),
        ("redirect?https://user:pw@pictures.test/", "not a plain https one"),
    ],
)
def test_what_a_host_can_do_wrong_is_refused_with_the_reason(fetch, path, reason):
    with pytest.raises(UnreadableContentError, match=reason):
        fetch(path)


@pytest.mark.parametrize("path", ["stalls", "drips", "drips_its_head"])
def test_a_slow_host_is_cut_off(fetch, path):
    started = time.perf_counter()
    with pytest.raises(UnreadableContentError, match="in time"):
        fetch(path, seconds=0.4)
    assert time.perf_counter() - started < 1.5


def test_a_slow_name_server_is_not_waited_for(fetch):
    def slow(host, port):
        time.sleep(0.5)
        return ["127.0.0.1"]

    started = time.perf_counter()
    with pytest.raises(UnreadableContentError, match="cannot be found"):
        fetch("picture", names=slow, seconds=0.1)
    assert time.perf_counter() - started < 0.4


def test_a_name_that_rebinds_is_asked_once_and_the_checked_address_is_used(fetch, server, internal):
    names = Names(pictures=[["127.0.0.1"], ["127.0.0.2"]])
    assert fetch("picture", names=names) == PICTURE
    assert names.asked == [OURS]
    with pytest.raises(UnreadableContentError, match="private, local or reserved"):
        fetch("picture", names=names)
    assert internal.asked == []


def test_a_name_that_rebinds_between_redirects_is_refused(fetch, internal):
    names = Names(pictures=[["127.0.0.1"], ["127.0.0.2"]])
    with pytest.raises(UnreadableContentError, match="private, local or reserved"):
        fetch("redirect?/picture", names=names)
    assert internal.asked == []


def test_a_redirect_into_the_private_network_is_refused_though_its_host_is_listed(fetch, server, internal):
    with pytest.raises(UnreadableContentError, match="private, local or reserved"):
        fetch(f"redirect?https://{INTERNAL}:{server.server_port}/picture")
    assert internal.asked == []


def test_one_private_address_among_public_ones_is_enough(fetch, server):
    before = len(server.asked)
    with pytest.raises(UnreadableContentError, match="private, local or reserved"):
        fetch("picture", names=Names(pictures=["127.0.0.1", "10.0.0.1"]))
    assert len(server.asked) == before


def test_a_certificate_for_another_name_is_refused(fetch, server):
    names = Names(stranger=["127.0.0.1"])
    fetcher = fetcher_to(names)
    with pytest.raises(UnreadableContentError, match="SSLCertVerificationError"):
        fetcher.fetch(f"https://{STRANGER}:{server.server_port}/picture", {f"{STRANGER}:{server.server_port}"}, 9_999)


ADDRESSES = """127.0.0.1 127.1.2.3 0.0.0.0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
100.100.100.200 192.0.0.192 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255 168.63.129.16 192.0.2.1 ::1 :: fe80::1 fe80::1%eth0
fc00::1 fd00:ec2::254 ff02::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::7f00:1
2002:7f00:1:: 2002:a9fe:a9fe:: 2001:0:7f00:1::1 2001:db8::1 fec0::1"""
NOT_PUBLIC = ADDRESSES.split()


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public_are_not_connected_to(address):
    fetcher = PictureFetcher(resolve=lambda host, port: [address])
    with pytest.raises(UnreadableContentError, match="private, local or reserved"):
        fetcher.fetch("https://img.example.com/a.png", {"img.example.com"}, 9_999)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_public_addresses_are_let_pass(address):
    PictureFetcher()._check_public(address)


LISTED = {"img.example.com", "*.cdn.example.com", "img.example.com:8443"}


@pytest.mark.parametrize(
    "url",
    [
        "http://img.example.com/a.png",
        "HTTP://img.example.com/a.png",
        "ftp://img.example.com/a.png",
        "//img.example.com/a.png",
        "https://img.example.com@evil.test/a.png",
        "https://evil.test#@img.example.com/a.png",
        "https://evil.test\\@img.example.com/a.png",
        "https://evil.test/https://img.example.com/a.png",
        "https://img.example.com.evil.test/a.png",
        "https://evilimg.example.com/a.png",
        "https://cdn.example.com/a.png",
        "https://evilcdn.example.com/a.png",
        "https://img.example.com:22/a.png",
        "https://img.example.com:0/a.png",
        "https://img.example.com:99999/a.png",
        "https://img.example.com:8443:443/a.png",
        "https://img.example.com%2eevil.test/a.png",
        "https://img.example.com\x00.evil.test/a.png",
        "https://img.example.com/a.png\r\nX: y",
        "https://img.example.com/a b.png",
        "https://im\u0261.example.com/a.png",
        "https://img\u3002example.com/a.png",
        "https://[::1]/a.png",
        "https://[::ffff:127.0.0.1]/a.png",
        "https://[img.example.com/a.png",
        "https://127.0.0.1/a.png",
        "https://2130706433/a.png",
        "https://0x7f.1/a.png",
        "https://localhost/a.png",
        "https:///a.png",
        "https://",
        " https://img.example.com/a.png",
    ],
)
def test_addresses_that_are_not_plainly_listed_are_refused(url):
    with pytest.raises(UnreadableContentError, match=r"not a plain https one|not among those|broken"):
        split_address(url, LISTED)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://img.example.com/a.png?x=1", "img.example.com", 443),
        ("HTTPS://IMG.EXAMPLE.COM", "img.example.com", 443),
        ("https://a.b.cdn.example.com/", "a.b.cdn.example.com", 443),
        ("https://img.example.com:8443/", "img.example.com", 8443),
        ("https://img.example.com./", "img.example.com", 443),
    ],
)
def test_listed_addresses_are_taken(url, host, port):
    assert split_address(url, LISTED)[:2] == (host, port)


def guard(server, model, path, **options):
    host = f"{OURS}:{server.server_port}"
    fetcher = fetcher_to(Names(pictures=["127.0.0.1"]))
    graph = create_vlm_guard(
        model, policy=GuardPolicy(image_hosts={host}), fetcher=fetcher, answer_judge=Judge(0.0)
    ).compile(**options)
    return graph, {"type": "image_url", "image_url": {"url": f"https://{host}/{path}"}}


async def test_through_the_guard_a_picture_is_fetched_once_and_stays_what_it_was(server):
    server.asked.clear()
    model = ScriptedModel()
    graph, block = guard(server, model, "other_each_time", checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    nested = {"type": "tool_result", "content": [block]}
    await graph.ainvoke({"messages": [HumanMessage(["look", block, nested])]}, thread)
    state = await graph.ainvoke({"messages": [HumanMessage("and now?")]}, thread)
    assert server.asked == ["/other_each_time"]
    first, second = model.seen
    assert first[0].content[1] == first[0].content[2] == second[0].content[1]
    assert first[0].content[1]["type"] == "image"
    assert "https://" not in str(state["messages"])
    assert state["messages"][0].content[2]["type"] == "tool_result"


def test_the_guard_refuses_with_the_reason_what_cannot_be_fetched(server):
    for path, reason in (("missing", "status 404"), ("login", "no picture"), ("promises_less", "cannot be decoded")):
        model = ScriptedModel()
        graph, block = guard(server, model, path)
        state = graph.invoke({"messages": [HumanMessage([block])]})
        assert (state["verdict"]["action"], model.seen) == ("refuse", [])
        assert reason in state["verdict"]["unjudged"][0]["reason"]


def test_addresses_of_earlier_turns_and_of_artifacts_are_not_fetched(server):
    host = f"{OURS}:{server.server_port}"
    block = {"type": "image", "url": f"https://{host}/picture"}
    limits, fetcher = ReadLimits(hosts=frozenset({host})), fetcher_to(Names(pictures=["127.0.0.1"]))
    server.asked.clear()
    old = read_turn([HumanMessage([block]), AIMessage("seen"), HumanMessage("go on")], limits, fetcher)
    assert "image" not in str(old.messages[0].content[0]["type"])
    tool = read_turn([HumanMessage("draw"), ToolMessage("ok", tool_call_id="1", artifact=block)], limits, fetcher)
    assert tool.unjudged[0].where == "messages[1].artifact"
    assert server.asked == []


def test_one_address_twice_in_a_turn_is_one_fetch(server):
    host = f"{OURS}:{server.server_port}"
    block = {"type": "image", "url": f"https://{host}/other_each_time"}
    limits, fetcher = ReadLimits(hosts=frozenset({host})), fetcher_to(Names(pictures=["127.0.0.1"]))
    server.asked.clear()
    turn = read_turn([HumanMessage([block, block])], limits, fetcher)
    assert len(server.asked) == 1
    assert turn.messages[0].content[0] == turn.messages[0].content[1]
    assert b64() not in str(turn.messages)


@pytest.mark.parametrize(
    "host", ["https://a.example.com", "a.example.com/x", "*", "*.*.com", "", "a b", "[::1]", "user@host"]
)
def test_a_policy_takes_only_names_of_hosts(host):
    with pytest.raises(ValidationError, match="hosts"):
        GuardPolicy(image_hosts={host})


def test_the_order_of_hosts_does_not_change_a_policys_hash():
    one, other = GuardPolicy(image_hosts=["a.test", "B.test"]), GuardPolicy(image_hosts=["b.test", "a.test"])
    assert one.hash == other.hash != GuardPolicy().hash


@pytest.mark.parametrize(("port", "host"), [(443, OURS), (8443, f"{OURS}:8443")])
def test_the_host_is_named_as_every_client_names_it(port, host, monkeypatch):
    """Signed addresses are signed over this header."""
    sent = []

    class Wire(BytesIO):
        sendall = sent.append
        shutdown = do_handshake = lambda self, *_: None
        makefile = lambda self, *_, **__: BytesIO(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\x89PNG")  # noqa: E731

    monkeypatch.setattr(fetching.socket, "create_connection", lambda *_, **__: Wire())
    monkeypatch.setattr(fetching, "_secured", lambda *_: Wire())
    fetcher = PictureFetcher(resolve=lambda *_: ["93.184.216.34"])
    assert fetcher.fetch(f"https://{OURS}:{port}/a.png?signed=host", {f"{OURS}:{port}", OURS}, 100) == b"\x89PNG"
    assert f"Host: {host}\r\n" in b"".join(sent).decode()
