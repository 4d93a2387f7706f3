"""Serves a live page: the standard library's HTTP server, a thread for each request.

What it has to do is small: six addresses, no session, no upload. None of what Ray's Tune brings is a server, and a
framework would be one more package whose security somebody has to follow.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from cpcnn_core.errors import CpcnnError, UserError
from orchestrator.records.store import Store
from orchestrator.views.page import document
from orchestrator.views.page.access import Access, RefusedError, is_loopback
from orchestrator.views.page.live import LivePage

logger = logging.getLogger(__name__)

Stop = Callable[[Store, str], None]
"""Asks for a trial to be stopped."""

_LONGEST = 4096  # bytes of a request's body
_SILENT_SECONDS = 30.0  # of a connection, until it is closed

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "cpcnn",
}


class ServeError(UserError):
    """The page cannot be served there."""


class Server(ThreadingHTTPServer):
    """Serves one page."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, page: LivePage, stop: Stop, host: str, port: int, *, with_token: bool = False) -> None:
        """Listen. Raise ServeError where that is not possible."""
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), partial(_Handler, page=page, stop=stop))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise ServeError(f"{host}:{port}: cannot listen there: {reason or error}; --port takes another") from None
        self.access = Access(host, self.server_port, with_token=with_token)

    @property
    def url(self) -> str:
        """The address to open, with its token where one is needed."""
        host = self.access.host
        shown = socket.gethostname() if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host  # noqa: S104
        return f"http://{shown}:{self.server_port}/" + (
            f"?token={self.access.token}" if self.access.needs_token else ""
        )

    @property
    def warning(self) -> str | None:
        """What to know of an address that others reach."""
        if is_loopback(self.access.host):
            return None
        port = self.server_port
        return (
            "Whoever has this address with its token sees the page and can stop trials; the connection is not "
            f"encrypted. A tunnel is safer: serve without --host, then ssh -N -L {port}:127.0.0.1:{port} HOST"
        )


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = _SILENT_SECONDS
    protocol_version = "HTTP/1.1"
    server: Server

    def __init__(self, *arguments: object, page: LivePage, stop: Stop) -> None:
        self._page = page
        self._stop = stop
        super().__init__(*arguments)  # type: ignore[arg-type] # what socketserver passes on

    def do_GET(self) -> None:
        """Show something; nothing changes."""
        path, _, query = self.path.partition("?")
        if self.server.access.needs_token and path == "/" and query:
            self._enter(query)
            return
        try:
            self.server.access.check(self.headers)
        except RefusedError as error:
            self._refuse(HTTPStatus.FORBIDDEN, str(error))
            return
        self._show(path)

    def _enter(self, query: str) -> None:
        """Take the token out of the address into a cookie, so that no history and no log keeps it."""
        access = self.server.access
        if not access.is_token(parse_qs(query).get("token", [""])[0]):
            self._refuse(HTTPStatus.FORBIDDEN, "the token is wrong; open the address that the command printed")
            return
        # Lax: with Strict whoever follows the link from a web mail would be sent on without it. A GET changes nothing.
        cookie = f"{access.cookie}={access.token}; HttpOnly; SameSite=Lax; Path=/"
        self._answer(b"", "text/plain", status=HTTPStatus.SEE_OTHER, more={"Location": "/", "Set-Cookie": cookie})

    def _show(self, path: str) -> None:
        page = self._page
        name = path.removeprefix("/sections/")
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            text = document.live_html(page.shown, token=self.server.access.acting, nonce=nonce)
            self._answer(text.encode(), "text/html; charset=utf-8", more={"Content-Security-Policy": _policy(nonce)})
        elif path == "/sections.json":
            self._json(page.changed_since())
        elif path.startswith("/sections/") and name in page.shown.inner:
            self._answer(page.shown.inner[name].encode(), "text/html; charset=utf-8")
        elif path == "/status.json":
            self._json(page.status())
        elif path == "/plotly.js":
            more = {"Content-Encoding": "gzip", "Cache-Control": "private, max-age=86400"}
            self._answer(document.plotly_code(), "text/javascript; charset=utf-8", more=more)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        """Stop a trial: the one thing that can be changed."""
        try:
            self.server.access.check_action(self.headers)
        except RefusedError as error:
            self.close_connection = True  # its body is not read
            self._refuse(HTTPStatus.FORBIDDEN, str(error))
            return
        given = self.headers.get("Content-Length", "")
        length = int(given) if given.isdecimal() and len(given) <= len(str(_LONGEST)) else None
        if length is None or length > _LONGEST:
            self.close_connection = True
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too long")
            return
        body = self.rfile.read(length)
        if self.path != "/stop":
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")
            return
        self._stop_trial(body)

    def _stop_trial(self, body: bytes) -> None:
        try:
            asked = json.loads(body)
            sweep, trial = asked["sweep"], asked["trial"]
        except (ValueError, TypeError, KeyError, RecursionError):  # the last where brackets are nested too deep
            self._refuse(HTTPStatus.BAD_REQUEST, 'expected {"sweep": NAME, "trial": ID}')
            return
        stores = {store.folder.name: store for store in self._page.stores}
        if not (isinstance(sweep, str) and isinstance(trial, str) and self._page.shown.running(sweep, trial)):
            self._refuse(HTTPStatus.CONFLICT, "no such trial runs")
            return
        try:
            self._stop(stores[sweep], trial)
        except CpcnnError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return
        self._json({"asked": True})

    def _json(self, content: dict[str, object], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._answer(json.dumps(content).encode(), "application/json", status=status)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._json({"error": why}, status)

    def _answer(
        self, content: bytes, kind: str, *, status: HTTPStatus = HTTPStatus.OK, more: dict[str, str] | None = None
    ) -> None:
        self.send_response_only(status)
        given = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store"}
        for name, value in {**_HEADERS, **given, **(more or {})}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name for it
        logger.debug(format, *arguments)


def _policy(nonce: str) -> str:
    """What the page may do: its own scripts, its own figures, requests to where it came from; nothing from elsewhere.

    Plotly sets styles of elements, which a nonce does not reach.
    """
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
