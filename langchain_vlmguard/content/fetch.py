"""Pictures by address: fetched once, over https, from listed hosts on public networks, within bounds, or not at all."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from threading import Timer
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from langchain_vlmguard._version import __version__
from langchain_vlmguard.errors import UnreadableContentError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_ADDRESS = re.compile(r"https://[A-Za-z0-9._:\[\]-]+(/[!-~]*|\?[!-~]*)?", re.IGNORECASE)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HTTPS_PORT = 443
_CHUNK = 65_536
_INSIDE = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "fec0::/10")))
"""Networks that count as public and are not: clouds answer there inside their machines, or nobody should."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOW_32_BITS = 0xFFFFFFFF

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def resolve_host(host: str, port: int) -> list[str]:
    """Return every address of a host, as the operating system knows it."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True)
class PictureFetcher:
    """Fetches pictures so that a message cannot make the guard's machine talk to what it should not.

    Only https; only hosts that the policy lists; every address of a host must be public, and the connection goes to the very
    address that was checked, so that a second answer of the name server changes nothing. Each redirect is checked like the
    first address. No proxies, no cookies, no credentials, no compression.

    ??? example "An image store inside one's own network"

        ```python
        fetcher = PictureFetcher(seconds=5, allow_networks=("10.1.0.0/16",))
        fetcher.fetch("https://img.example.com/kite.png", {"img.example.com"}, max_bytes=1_000_000)
        ```
    """

    seconds: float = 10.0
    """For everything: names, connections, redirects and data."""

    max_redirects: int = 3
    allow_networks: tuple[str, ...] = ()
    """Networks that are let pass though they are not public, e.g. `"10.1.0.0/16"` for an image store of your own."""

    ssl_context: ssl.SSLContext | None = None
    """For an authority of your own; the system's authorities otherwise."""

    resolve: Callable[[str, int], list[str]] = field(default=resolve_host, repr=False)
    """From host and port to addresses."""

    def fetch(self, url: str, hosts: Collection[str], max_bytes: int) -> bytes:
        """Return what lies at an address.

        Args:
            url: The address.
            hosts: Hosts that may be asked: `"img.example.com"`, `"*.example.com"` (its subdomains) or `"host:8443"`.
            max_bytes: Most bytes that are taken.

        Raises:
            UnreadableContentError: It is not fetched, or could not be; the reason says why.
        """
        deadline = time.monotonic() + self.seconds
        for _ in range(self.max_redirects + 1):
            host, port, path = split_address(url, hosts)
            address = self._checked_address(host, port, deadline)
            try:
                with self._connection(host, port, address, deadline) as connection:
                    found = _get(connection, path, max_bytes)
                _check_time(deadline)
            except (OSError, http.client.HTTPException) as error:
                raise _failed(error, deadline) from error
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        msg = f"its address redirects more than {self.max_redirects} times"
        raise UnreadableContentError(msg)

    def _checked_address(self, host: str, port: int, deadline: float) -> str:
        worker = ThreadPoolExecutor(1)
        try:
            found = worker.submit(self.resolve, host, port).result(timeout=max(0.0, deadline - time.monotonic()))
        except (OSError, TimeoutError, UnicodeError) as error:
            msg = "its host cannot be found"
            raise UnreadableContentError(msg) from error
        finally:
            worker.shutdown(wait=False)
        if not found:
            msg = "its host cannot be found"
            raise UnreadableContentError(msg)
        for address in found:
            self._check_public(address)
        return found[0]

    def _check_public(self, text: str) -> None:
        address = ipaddress.ip_address(text.partition("%")[0])
        allowed = [ipaddress.ip_network(network) for network in self.allow_networks]
        if any(address in network for network in allowed):
            return
        if not all(_is_public(one) for one in _meant(address)):
            msg = "its host lies on a private, local or reserved network, and pictures are not fetched from there"
            raise UnreadableContentError(msg)

    @contextmanager
    def _connection(self, host: str, port: int, address: str, deadline: float) -> Iterator[http.client.HTTPConnection]:
        """Connect to a checked address; whatever is still under way at the deadline is cut off."""
        left = max(0.01, deadline - time.monotonic())
        context = self.ssl_context or ssl.create_default_context()
        plain = socket.create_connection((address, port), timeout=left)
        with closing(plain), closing(_secured(plain, context, host)) as secured:
            cutter = Timer(max(0.01, deadline - time.monotonic()), _cut, (secured,))
            cutter.daemon = True
            cutter.start()
            try:
                secured.do_handshake()
                connection = http.client.HTTPSConnection(host, port, context=context)
                connection.sock = secured
                yield connection
            finally:
                cutter.cancel()


def split_address(url: str, hosts: Collection[str]) -> tuple[str, int, str]:
    """Return host, port and path of an address that may be asked.

    Raises:
        UnreadableContentError: It may not.
    """
    if not hosts:
        msg = "it is an address, and addresses are not fetched: send base64 or a data URI"
        raise UnreadableContentError(msg)
    if not _ADDRESS.fullmatch(url):
        msg = "its address is not a plain https one (no other scheme, no password, no odd characters)"
        raise UnreadableContentError(msg)
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), _HTTPS_PORT if parts.port is None else parts.port
    except ValueError as error:
        msg = "its address is broken"
        raise UnreadableContentError(msg) from error
    if not _is_listed(host, port, hosts):
        msg = "its host is not among those that the policy lists (image_hosts)"
        raise UnreadableContentError(msg)
    return host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _is_listed(host: str, port: int, hosts: Collection[str]) -> bool:
    for listed in hosts:
        name, _, its_port = listed.lower().partition(":")
        if port != int(its_port or _HTTPS_PORT):
            continue
        if host == name or (name.startswith("*.") and host.endswith(name[1:]) and host != name[2:]):
            return True
    return False


def _meant(address: IPAddress) -> list[IPAddress]:
    """Return an address and those that it stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    inner: list[IPAddress | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & _LOW_32_BITS))
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    return [address, *(one for one in inner if one is not None)]


def _is_public(address: IPAddress) -> bool:
    reserved = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    return address.is_global and not reserved and not any(address in network for network in _INSIDE)


def _get(connection: http.client.HTTPConnection, path: str, max_bytes: int) -> bytes | str:
    """Return the data, or where a redirect leads."""
    headers = {
        "User-Agent": f"langchain-vlmguard/{__version__}",
        "Accept": "image/*, application/pdf",
        "Accept-Encoding": "identity",
    }
    connection.request("GET", path, headers={**headers, "Connection": "close"})
    response = connection.getresponse()
    if response.status in _REDIRECTS:
        return response.headers.get("Location", "")
    if response.status != http.client.OK:
        msg = f"its host answered with status {response.status}"
        raise UnreadableContentError(msg)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        msg = "its host sent compressed data, which was not asked for"
        raise UnreadableContentError(msg)
    return _body(response, max_bytes)


def _body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    declared = response.length
    if declared is not None and declared > max_bytes:
        raise _too_large(max_bytes)
    data = bytearray()
    while piece := response.read1(_CHUNK):
        data += piece
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
    if declared is not None and len(data) != declared:
        msg = f"its host promised {declared:,} bytes and sent {len(data):,}"
        raise UnreadableContentError(msg)
    return bytes(data)


def _check_time(deadline: float) -> None:
    """Raise past the deadline; a connection that was cut off then can look as if it had ended by itself."""
    if time.monotonic() >= deadline:
        raise TimeoutError


def _too_large(max_bytes: int) -> UnreadableContentError:
    return UnreadableContentError(f"what lies at its address is larger than {max_bytes:,} bytes")


def _failed(error: Exception, deadline: float) -> UnreadableContentError:
    if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
        return UnreadableContentError("its host did not send it in time")
    return UnreadableContentError(f"it could not be fetched ({type(error).__name__})")


def _secured(plain: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    return context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)


def _cut(connection: ssl.SSLSocket) -> None:
    """End a connection under another thread's reading: the socket below TLS, whose own state that thread is using."""
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
