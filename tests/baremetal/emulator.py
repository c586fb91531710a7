"""sushy-tools' Redfish emulator as a process: TLS, sessions, and faults between it and its client.

    python -m tests.baremetal.emulator DIRECTORY LIBVIRT_URI

DIRECTORY has `bmc.pem` and `bmc.key`. Prints its port once it serves. Faults are read from DIRECTORY/faults.json before
each request: `{"lose": {"Reset": 1}}` carries so many resets out and drops their answers, `{"silent": true}` answers
nobody. Each request is a line of DIRECTORY/requests: method, path, what the client asked for.
"""

from __future__ import annotations

import json
import secrets
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

ACCOUNT, PASSWORD = "corral", "a password of a BMC"
SESSIONS = "/redfish/v1/SessionService/Sessions"
OVMF = "/usr/share/OVMF/OVMF_CODE.fd"
Start = Callable[..., Any]


class Lost(ConnectionError):
    """The answer is dropped."""


class Front:
    """A WSGI application before the emulator's own, which knows no sessions."""

    def __init__(self, directory: Path, inner: Callable[..., Iterable[bytes]]) -> None:
        self._directory = directory
        self._inner = inner
        self._sessions: set[str] = set()
        self._lost: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """Serve a request."""
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].rstrip("/")
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        asked = body.decode() if method != "POST" or path != SESSIONS else ""
        with (self._directory / "requests").open("a") as log:
            log.write(f"{method} {path} {asked}\n")
        faults = self._faults()
        while faults.get("silent"):
            time.sleep(0.2)
            faults = self._faults()
        answer = self._answered(method, path, body, environ, start)
        name = path.rsplit(".", 1)[-1]
        if method != "GET" and self._lost[name] < faults.get("lose", {}).get(name, 0):
            self._lost[name] += 1
            raise Lost(name)  # the server ends the connection without a word
        return answer

    def _faults(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._directory / "faults.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def _answered(self, method: str, path: str, body: bytes, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        token = environ.get("HTTP_X_AUTH_TOKEN", "")
        if path == SESSIONS and method == "POST":
            return self._log_in(json.loads(body), start)
        if path != "/redfish/v1" and token not in self._sessions:
            return _json(start, "401 Unauthorized", {"error": {"code": "Base.1.0.NoValidSession", "message": "no"}})
        if path == "/redfish/v1":
            return self._root(environ, start)
        if path.startswith(SESSIONS):
            self._sessions.discard(path.rsplit("/", 1)[-1])
            return _json(start, "204 No Content", None)
        if path == "/redfish/v1/SessionService":
            told = {"@odata.id": path, "Id": "S", "Name": "S", "ServiceEnabled": True}
            return _json(start, "200 OK", {**told, "Sessions": {"@odata.id": SESSIONS}})
        return list(self._inner(environ, start))

    def _root(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        told = json.loads(b"".join(self._inner(environ, lambda *_: None)))
        told["SessionService"] = {"@odata.id": "/redfish/v1/SessionService"}
        return _json(start, "200 OK", {**told, "Links": {"Sessions": {"@odata.id": SESSIONS}}})

    def _log_in(self, given: dict[str, str], start: Start) -> Iterable[bytes]:
        if (given.get("UserName"), given.get("Password")) != (ACCOUNT, PASSWORD):
            return _json(start, "401 Unauthorized", {"error": {"code": "denied", "message": "denied"}})
        token = secrets.token_hex(8)
        self._sessions.add(token)
        more = [("X-Auth-Token", token), ("Location", f"{SESSIONS}/{token}")]
        return _json(start, "201 Created", {"@odata.id": f"{SESSIONS}/{token}", "Id": token, "Name": "s"}, more)


def _json(start: Start, status: str, said: object, more: list[tuple[str, str]] | None = None) -> Iterable[bytes]:
    content = b"" if said is None else json.dumps(said).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(content))), *(more or [])])
    return [content]


def main() -> None:
    """Serve until killed."""
    from sushy_tools.emulator import main as emulator
    from werkzeug.serving import make_server

    directory, uri = Path(sys.argv[1]), sys.argv[2]
    loaders = {"UEFI": {"x86_64": OVMF}, "Legacy": {"x86_64": None}}
    emulator.app.configure(
        extra_config={
            "SUSHY_EMULATOR_LIBVIRT_URI": uri,
            "SUSHY_EMULATOR_STATE_DIR": str(directory),
            "SUSHY_EMULATOR_BOOT_LOADER_MAP": loaders,
        }
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "bmc.pem", directory / "bmc.key")
    front = Front(directory, emulator.app.wsgi_app)
    server = make_server("127.0.0.1", 0, front, threaded=True, ssl_context=context)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
