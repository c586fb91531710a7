"""What an outside client and the service say to each other, byte for byte, to be said again without the client.

Between the two stands a proxy that keeps every exchange. What differs from run to run is a place in the kept text: a
uuid that the service made up (`{{uuid:3}}`, the same number wherever it comes again), a date, a revision,
an etag, the service's address.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# What of a request's head decides the answer.
HEADERS = ("authorization", "content-type", "x-api-timeout", "x-job-uuid", "x-json-schema")
_UUID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_DATE = r"[A-Z][a-z]{2} [0-9]{1,2}, [0-9]{4} [0-9]{1,2}:[0-9]{2}:[0-9]{2} [AP]M"
_ETAG = "[0-9a-f]{8}-[0-9]+"
_PLACE = re.compile(r"\{\{(date|revision|etag|address|uuid:[0-9]+)\}\}")
# How many commits a change took is a matter of which of its steps fell together.
_PATTERNS: Mapping[str, str] = {"date": _DATE, "revision": "[0-9]+", "etag": _ETAG}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, and the answer's status and body. Texts are as they were on the wire, or with places in them."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: str
    status: int
    answer: str


@contextmanager
def between(address: str, kept: list[Exchange]) -> Iterator[str]:
    """A proxy before the service at `address` (HOST:PORT); its own address. Exchanges are added to `kept`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            connection = http.client.HTTPConnection(address, timeout=60)
            try:
                connection.request(self.command, self.path, body or None, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
            finally:
                connection.close()
            head = {name: self.headers[name] for name in HEADERS if self.headers[name] is not None}
            kept.append(Exchange(self.command, self.path, head, body.decode(), answer.status, content.decode()))
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("content-type", "text/plain"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        # By http.server's names.
        do_GET = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def with_places(kept: Iterable[Exchange], address: str) -> list[Exchange]:
    """The exchanges with places for what another run would say otherwise.

    Questions for a job's answer that came too early are left out; the first call with a signature, which holds for
    minutes only, ends it.
    """
    numbers: dict[str, str] = {}
    literal: set[str] = set()
    made = []
    for exchange in kept:
        if exchange.headers.get("authorization", "").startswith("ZStack "):
            break
        if exchange.method == "GET" and exchange.status == 202:
            continue
        asked = (exchange.target, exchange.body, *exchange.headers.values())
        literal |= {uuid for text in asked for uuid in _UUID.findall(text)} - set(numbers)
        for uuid in _UUID.findall(exchange.answer):
            if uuid not in literal:
                numbers.setdefault(uuid, f"{{{{uuid:{len(numbers) + 1}}}}}")

        def placed(text: str) -> str:
            text = _UUID.sub(lambda match: numbers.get(match[0], match[0]), text)
            text = re.sub(r'(?<="revision":)[0-9]+', "{{revision}}", text)
            text = re.sub(f'(?<="etag":"){_ETAG}', "{{etag}}", text)
            return re.sub(_DATE, "{{date}}", text).replace(address, "{{address}}")

        made.append(
            Exchange(
                exchange.method,
                placed(exchange.target),
                {name: placed(value) for name, value in exchange.headers.items()},
                placed(exchange.body),
                exchange.status,
                placed(exchange.answer),
            )
        )
    return made


def write(file: Path, exchanges: Sequence[Exchange]) -> None:
    """One exchange a line, so that a change shows as its lines."""
    lines = ",\n".join(json.dumps(asdict(each), ensure_ascii=False) for each in exchanges)
    file.write_text(f"[\n{lines}\n]\n")


def read(file: Path) -> list[Exchange]:
    """What `write` wrote."""
    return [Exchange(**each) for each in json.loads(file.read_text())]


@dataclass
class Places:
    """What stands in the places in this run, learnt from the answers in their order."""

    address: str
    known: dict[str, str] = field(default_factory=dict)

    def filled(self, text: str) -> str:
        """A text of a request. Raises KeyError where it names what no answer has told yet."""
        return _PLACE.sub(lambda match: self.address if match[1] == "address" else self.known[match[1]], text)

    def learn(self, wanted: str, told: str) -> bool:
        """Whether the answer is the kept one, byte for byte but for what stands in its places, which is learnt."""
        pattern, end, here = "", 0, set()
        for match in _PLACE.finditer(wanted):
            pattern += re.escape(wanted[end : match.start()])
            end, name = match.end(), match[1]
            group = name.replace(":", "_")
            if name in _PATTERNS:
                pattern += _PATTERNS[name]
            elif name == "address":
                pattern += re.escape(self.address)
            elif name in self.known:
                pattern += self.known[name]
            else:
                pattern += f"(?P={group})" if group in here else f"(?P<{group}>[0-9a-f]{{32}})"
                here.add(group)
        found = re.fullmatch(pattern + re.escape(wanted[end:]), told)
        if found is not None:
            self.known |= {name.replace("_", ":"): value for name, value in found.groupdict().items()}
        return found is not None

    def learn_around(self, wanted: str, told: str) -> None:
        """What can be learnt of an answer that is not the kept one: what stands in its places, at the same paths."""

        def walk(kept: Any, new: Any) -> None:
            if isinstance(kept, dict) and isinstance(new, dict):
                for name in kept.keys() & new.keys():
                    walk(kept[name], new[name])
            elif isinstance(kept, list) and isinstance(new, list):
                for one, other in zip(kept, new, strict=False):
                    walk(one, other)
            elif isinstance(kept, str) and isinstance(new, str) and re.fullmatch(r"\{\{uuid:[0-9]+\}\}", kept):
                self.known.setdefault(kept[2:-2], new)

        # A revision is a number, and a place for one is no JSON.
        walk(*(json.loads(text.replace("{{revision}}", "0")) for text in (wanted, told)))
