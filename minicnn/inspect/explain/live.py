"""The live page: a server on this machine alone, whose page changes the network and sees what follows.

It gives out one page, and takes changes of it as JSON; it reads no file that a request names. Only a page that knows
the token in the address is answered. The header Host is checked, too: without that, a page of another server could
ask through a name of its own that leads to this machine (DNS rebinding).
"""

import http
import http.server
import json
import secrets
import socketserver
import threading
import urllib.parse
import webbrowser

from minicnn import console
from minicnn.core.checks import quoted
from minicnn.core.errors import InputError, MinicnnError
from minicnn.markup import script_data

HOST = "127.0.0.1"
MOST_BYTES = 4 << 20  # of a change: an image of 224 x 224 in colour as text has three million
SECONDS = 20  # that a browser may be silent in the middle of a request
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class LiveServer(http.server.ThreadingHTTPServer):
    """Serves the page of an experiment on 127.0.0.1; `run` answers until Ctrl-C.

    Args:
        experiment: an `Experiment`.
        page: a function from its data to the page.
        pack: what makes an array of the data a value for JSON.
        port: 0 for any free one.

    Attributes:
        address: of the page, with its token.

    Raises:
        InputError: the port is taken, or not a port.
    """

    daemon_threads = True  # a browser that keeps a connection open does not keep the program from ending

    def __init__(self, experiment, page, pack, port=0):
        self.experiment, self.page, self.pack = experiment, page, pack
        self.lock = threading.Lock()  # one change at a time
        self.token = secrets.token_urlsafe(16)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot serve on port {port} of this machine: {error}. Choose another --port") from error
        self.address = f"http://{HOST}:{self.server_port}/{self.token}/"

    def run(self, opens=False):
        """Print the page's address and answer requests until Ctrl-C; `opens` is whether a browser is opened."""
        with self:
            console.show(f"{self.address}\nopen it in a browser on this machine; Ctrl-C ends it")
            if opens and not webbrowser.open(self.address):
                console.show("no browser could be opened: copy the address")
            self.serve_forever()

    def server_bind(self):
        # Not HTTPServer's, which looks up this machine's name, in the network where it must.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address):
        """A browser that leaves is no error of the program."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request. Whatever is not the page or a change of it gets an error with a sentence."""

    protocol_version = "HTTP/1.1"
    timeout = SECONDS
    server_version, sys_version = "minicnn", ""

    def do_GET(self):
        if self._is_allowed("/"):
            with self.server.lock:
                data = self.server.experiment.data
                page = self.server.page(data).encode("utf-8")
            self._answer(http.HTTPStatus.OK, "text/html; charset=utf-8", page)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        if not self._is_allowed("/change"):
            return
        body = self._body()
        if body is None:
            return
        try:
            try:
                request = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise InputError(f"the change is not JSON: {quoted(error)}") from error
            with self.server.lock:
                data = self.server.experiment.change(request)
                found = script_data(data, default=self.server.pack).encode()
        except MinicnnError as error:
            self._refuse(http.HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except Exception as error:  # the page says it, and the program goes on
            self._refuse(http.HTTPStatus.INTERNAL_SERVER_ERROR, f"the change failed: {quoted(repr(error), 300)}")
        else:
            self._answer(http.HTTPStatus.OK, "application/json", found)

    def log_message(self, *arguments):
        """Nothing is printed for a request."""

    def _is_allowed(self, place):
        """Whether the request comes from this server's page; else it is refused."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        port = self.server.server_port
        known = [f"{name}:{port}" for name in (HOST, "localhost")]
        path = urllib.parse.urlsplit(self.path).path.encode("utf-8", "replace")
        if host not in known or origin not in (None, f"http://{host}"):
            self._refuse(http.HTTPStatus.FORBIDDEN, "this address is answered on this machine alone")
        elif not secrets.compare_digest(path, f"/{self.server.token}{place}".encode()):
            self._refuse(http.HTTPStatus.NOT_FOUND, "there is no such page: the address with its token is printed")
        else:
            return True
        return False

    def _body(self):
        """The bytes of a change, or None where the request was refused."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get_content_type() != "application/json":
            self._refuse(http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a change is sent as application/json")
        elif not (length.isascii() and length.isdigit() and len(length) < 12) or "Transfer-Encoding" in self.headers:
            self._refuse(http.HTTPStatus.LENGTH_REQUIRED, "a change is sent with its Content-Length")
        elif int(length) > MOST_BYTES:
            self._refuse(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a change has at most {MOST_BYTES:,} bytes")
        else:
            return self.rfile.read(int(length))
        return None

    def _refuse(self, status, sentence):
        self.close_connection = status != http.HTTPStatus.UNPROCESSABLE_ENTITY  # what was sent may be unread
        self._answer(status, "application/json", script_data({"error": sentence}).encode())

    def send_error(self, code, message=None, explain=None):
        """The errors of the standard library's server, such as for an unknown method, have the form of the others."""
        self._refuse(http.HTTPStatus(code), message or http.HTTPStatus(code).phrase)

    def _answer(self, status, kind, content):
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
