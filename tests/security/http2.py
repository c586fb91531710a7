"""HTTP/2 by hand (RFC 9113, HPACK of RFC 7541): a client that may break every rule, over one loopback socket."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
INITIAL_WINDOW_SIZE = 0x4
CANCEL = 0x8
MAX_FRAME = 16384
"""What every peer takes; a server may announce more."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame; its length may be more than the peer allows."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    """A SETTINGS frame; `window`: the initial window of every stream, in bytes."""
    window = values.get("window")
    return frame(SETTINGS, 0, 0, b"" if window is None else struct.pack(">HI", INITIAL_WINDOW_SIZE, window))


def _integer(value: int, prefix_bits: int, first: int = 0) -> bytes:
    """An HPACK integer (RFC 7541, section 5.1)."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def _text(value: bytes) -> bytes:
    return _integer(len(value), 7) + value


def header(name: str | bytes, value: str | bytes, *, indexed: bool = False) -> bytes:
    """A literal header field; `indexed`: the peer must keep it in its table, as entry 62."""
    raw_name = name.encode() if isinstance(name, str) else name
    raw_value = value.encode() if isinstance(value, str) else value
    return (b"\x40" if indexed else b"\x00") + _text(raw_name) + _text(raw_value)


def repeated(entry: int, times: int) -> bytes:
    """References to an entry of the peer's table: one byte each, whatever it holds."""
    return _integer(entry, 7, 0x80) * times


def call_headers(path: str, more: Iterable[tuple[str, str]] = ()) -> bytes:
    """The header block of a gRPC call."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *more,
    ]
    return b"".join(header(name, value) for name, value in fields)


def message(body: bytes, *, length: int | None = None, compressed: bool = False) -> bytes:
    """A gRPC message with its prefix; `length`: what the prefix claims."""
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body


def call(stream: int, path: str, body: bytes = b"", more: Iterable[tuple[str, str]] = ()) -> bytes:
    """A whole call with one message."""
    head = frame(HEADERS, END_HEADERS, stream, call_headers(path, more))
    return head + frame(DATA, END_STREAM, stream, message(body))


class Connection:
    """A socket on which `first` is sent at once, by default the preface and SETTINGS. `closed`: it takes no more."""

    def __init__(self, port: int, first: bytes | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.closed = False
        self.send(PREFACE + settings() if first is None else first)

    def send(self, data: bytes) -> bool:
        """Send what the server still takes; False once it has closed, or does not read for five seconds."""
        if self.closed:
            return False
        self.socket.settimeout(5)
        try:
            self.socket.sendall(data)
        except OSError:
            self.closed = True
        return not self.closed

    def frames(self, seconds: float = 60.0) -> Iterator[tuple[int, int, int, bytes]]:
        """(kind, flags, stream, payload) of what the server sends, until it closes or is silent for `seconds`."""
        self.socket.settimeout(seconds)
        data = b""
        while True:
            while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3], "big")):
                kind, flags, stream = struct.unpack(">BBI", data[3:9])
                yield kind, flags, stream & 0x7FFFFFFF, data[9 : 9 + size]
                data = data[9 + size :]
            try:
                more = self.socket.recv(1 << 16)
            except OSError:
                return
            if not more:
                self.closed = True
                return
            data += more

    def agree(self) -> None:
        """Take the server's settings, as a peer does that means to send more than a first window of 64 KiB."""
        assert any(kind == SETTINGS and not flags & ACK for kind, flags, _, _ in self.frames())
        self.send(frame(SETTINGS, ACK, 0))

    def ended(self, seconds: float = 60.0) -> bool:
        """Whether the server ends the connection (GOAWAY or close) or the stream (RST_STREAM, trailers)."""
        ends = any(
            kind in (GOAWAY, RST_STREAM) or (kind == HEADERS and flags & END_STREAM)
            for kind, flags, _, _ in self.frames(seconds)
        )
        return ends or self.closed

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
