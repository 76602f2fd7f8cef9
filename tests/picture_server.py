"""A real https server on this machine that misbehaves in the ways that picture hosts can."""

import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import trustme

from tests.pdfs import pdf, shown
from tests.pictures import png

AUTHORITY = trustme.CA()
PICTURE = png((0, 128, 255), size=(20, 10))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        name, _, argument = self.path.lstrip("/").partition("?")
        getattr(self, f"say_{name}", self.say_nothing)(unquote(argument))

    def answer(self, data=b"", status=200, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def say_picture(self, _):
        self.answer(PICTURE, Content_Length=len(PICTURE), Content_Type="image/png")

    def say_unsized(self, _):
        self.answer(PICTURE)

    def say_other_each_time(self, _):
        self.answer(png((len(self.server.asked), 0, 0)))

    def say_document(self, hidden):
        drawn = shown("The kite is red") + (shown(hidden, at=(60, 600), grey=1.0) if hidden else "")
        self.answer(pdf(drawn), Content_Type="application/pdf")

    def say_document_other_each_time(self, _):
        self.answer(pdf(shown(f"Answer {len(self.server.asked)}")))

    def say_redirect(self, where):
        self.answer(status=302, Location=where)

    def say_nothing(self, _):
        self.answer(status=404)

    def say_login(self, _):
        self.answer(b"<html>log in</html>", Content_Type="image/png")

    def say_promises_more(self, _):
        self.answer(PICTURE, Content_Length=len(PICTURE) + 100)

    def say_promises_less(self, _):
        self.answer(PICTURE, Content_Length=len(PICTURE) - 30)

    def say_promises_much(self, _):
        self.answer(PICTURE, Content_Length=10**12)

    def say_compressed(self, _):
        self.answer(PICTURE, Content_Encoding="gzip")

    def say_without_end(self, _):
        self.answer()
        while not self.server.over.is_set():
            self.wfile.write(bytes(65_536))

    def say_stalls(self, _):
        self.server.over.wait(20)

    def say_drips(self, _):
        self.answer()
        while not self.server.over.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()

    def say_drips_its_head(self, _):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.over.wait(0.05):
            self.wfile.write(b"X-A: b\r\n")
            self.wfile.flush()

    def say_garbage(self, _):
        self.wfile.write(b"\x00\xff" * 99)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Clients hang up here on purpose."""


@contextmanager
def picture_server(*names, address="127.0.0.1"):
    """Serve on a free port with a certificate for the names; `server.asked` holds the paths that were asked for."""
    server = Server((address, 0), Handler)
    server.asked, server.over = [], threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


def trusting():
    """A client's context that knows the authority."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context
