"""A web server that images and weights are fetched from: ranges, redirects, and lines that break, as a test says."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.lab.namespaces import Namespace

_RANGE = re.compile(r"bytes=(\d+)-")


class Source:
    """Serves `files` by path. A test sets what else befalls; `asked` holds (path, range's beginning, authorization)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, int, str]] = []
        self.redirects: dict[str, str] = {}
        self.statuses: dict[str, list[int]] = {}
        """Path -> what its next requests are answered with."""
        self.cuts: list[int] = []
        """After so many bytes of a body the next connections break."""
        self.ranges = True
        self.length = True
        self.headers: Mapping[str, str] = {}
        self.gate: Callable[[int], None] = lambda sent: None
        """Called before each part of a body with how many bytes of it went out."""
        self.address, self.port = "127.0.0.1", 0

    def url(self, path: str, *, user: str = "") -> str:
        """Where a path is."""
        return f"http://{user}{'@' if user else ''}{self.address}:{self.port}{path}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One request."""
        path = handler.path
        found = _RANGE.fullmatch(handler.headers.get("Range", ""))
        first = int(found[1]) if found is not None else 0
        self.asked.append((path, first, handler.headers.get("Authorization", "")))
        if self.statuses.get(path):
            return self._plain(handler, self.statuses[path].pop(0))
        if path in self.redirects:
            return self._plain(handler, 302, {"Location": self.redirects[path]})
        if path not in self.files:
            return self._plain(handler, 404)
        data = self.files[path]
        if not self.ranges or found is None:
            return self._body(handler, 200, data, {})
        if first >= len(data):
            return self._plain(handler, 416, {"Content-Range": f"bytes */{len(data)}"})
        told = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
        return self._body(handler, 206, data[first:], told)

    def _plain(self, handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str] | None = None) -> None:
        self._body(handler, status, b"", headers or {})

    def _body(self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        handler.send_response(status)
        for name, value in {**headers, **self.headers}.items():
            handler.send_header(name, value)
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        cut = self.cuts.pop(0) if self.cuts and body else len(body)
        for start in range(0, min(cut, len(body)), 1000):
            self.gate(start)
            handler.wfile.write(body[start : min(start + 1000, cut)])
            handler.wfile.flush()


@contextmanager
def source(
    tls: ssl.SSLContext | None = None, *, namespace: Namespace | None = None, address: str = "127.0.0.1"
) -> Iterator[Source]:
    """A server with a thread of its own. `tls`: it speaks https, with this context's certificate. `namespace`: it is
    reached at the address from there, by guests for example."""
    state = Source()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Answer."""
            try:
                state.answer(self)
            except OSError:
                self.close_connection = True  # who asked is gone

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    def made() -> ThreadingHTTPServer:
        return ThreadingHTTPServer((address, 0), Handler)

    server = made() if namespace is None else namespace.call(made)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    state.address, state.port = address, server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.gate = lambda sent: None
        server.shutdown()
        server.server_close()
        thread.join()
