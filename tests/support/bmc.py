"""A BMC of memory that speaks Redfish over TLS on loopback, with the faults of bought ones, and a guest behind it.

`faults`: what goes wrong, by name, and how often it still does. `resets`: every reset that had an effect.
"""

from __future__ import annotations

import json
import secrets
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.certificates import certificate
from tests.support.seeds import documents

GIB = 1 << 30
ACCOUNT, PASSWORD = "corral", "a password of a BMC"
SYSTEM, MANAGER = "/redfish/v1/Systems/1", "/redfish/v1/Managers/1"
DRIVE = f"{MANAGER}/VirtualMedia/Cd"
SESSIONS = "/redfish/v1/SessionService/Sessions"


class Bmc:
    """One machine. `guest`: what runs on it when it is switched on, with the bytes in its drive; None: nothing."""

    def __init__(self, directory: Path, uuid: str = "44454c4c-0000-1000-8000-000000000001") -> None:
        self.uuid = uuid
        self.power: str | None = "Off"
        self.image = ""
        self.faults: Counter[str] = Counter()
        self.resets: list[str] = []
        self.posts: list[str] = []
        self.requests = 0
        self.sessions: set[str] = set()
        self.most_sessions = 8
        self.retry_after = "1"  # what one that is busy asks for, in seconds
        self.started = "2026-01-01T00:00:00Z"
        self.inventory: dict[str, Any] = {
            "ProcessorSummary": {"Count": 1, "LogicalProcessorCount": 16},
            "MemorySummary": {"TotalSystemMemoryGiB": 64},
        }
        self.guests = False
        self.held = 0  # orders to switch on that it was given, and has not carried out yet
        self.heard = threading.Event()  # ends a silence of more than 30 s
        self.boot = {"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None"}
        self.allowed = ["None", "Cd", "Hdd"]
        self.shown: list[str | None] = []  # what it shows of its power before it shows the truth
        self.changes: dict[
            str, dict[str, Any]
        ] = {}  # what another make tells besides, by path; None: it tells no such thing
        self.quirks: frozenset[str] = frozenset()
        self.wanted: dict[str, Any] = {}  # what an insert has to say -> how one is refused that does not
        self.unread: list[int] = []  # what it was answered where it could not read an image that it was to take
        self.cleaned: list[str] = []  # how guests were told to clean
        self.basic = 0  # requests that bore the password itself
        self.reports: list[tuple[str, int]] = []
        self.read: list[dict[str, str]] = []  # the documents that guests found in the drive
        self._changing = threading.Lock()
        pem, key = certificate()
        self.ca_file = directory / f"bmc-{uuid[-1]}.pem"
        self.ca_file.write_bytes(pem)
        whole = directory / f"bmc-{uuid[-1]}.key"
        whole.write_bytes(pem + key)
        self.password_file = directory / f"bmc-{uuid[-1]}.password"
        self.password_file.write_text(PASSWORD + "\n")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(whole)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"bmc": self}))
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="bmc", daemon=True)
        self._thread.start()
        self._guests: list[threading.Thread] = []

    def close(self) -> None:
        """End it, and the guests that still report."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for guest in self._guests:
            guest.join()

    def strikes(self, fault: str) -> bool:
        """Whether this fault happens now."""
        with self._changing:
            if self.faults[fault] <= 0:
                return False
            self.faults[fault] -= 1
            return True

    def reset(self, how: str) -> int:
        """Carry a reset out; the answer's code."""
        self.posts.append(how)
        wanted = {"On": "On", "ForceOff": "Off"}.get(how)
        if wanted is None:
            return 204  # said yes to, and nothing happens
        if wanted == self.power:
            return 409
        if how == "On" and self.strikes("hold On"):
            self.held += 1
            return 204
        if self.strikes("lag"):
            self.shown = [f"Powering{wanted}"] * 2
        if self.strikes("falls back"):
            self.shown, wanted = ["PoweringOn"], self.power
        self.resets.append(how)
        if wanted == "On" and self.power != "On":
            self._switch_on()
        self.power = wanted
        return 204

    def _switch_on(self) -> None:
        self.power = "On"
        if self.guests and self.image:
            self._guests.append(threading.Thread(target=self._run_guest, args=(self.image,), name="guest", daemon=True))
            self._guests[-1].start()

    def late(self) -> None:
        """Carry out an order that was held."""
        assert self.held, "it was told nothing"
        self.held -= 1
        self._switch_on()

    def restart(self) -> None:
        """The BMC starts anew: its sessions are gone, the machine is not touched."""
        self.sessions.clear()
        self.started = f"2026-01-01T00:00:{int(self.started[-3:-1]) + 1:02d}Z"

    def _run_guest(self, url: str) -> None:
        """Reads what it was told, as cloud-init or the default guest would, and says that it boots and that it is
        ready. One that is to clean says so between the two."""
        try:
            found = documents(fetch(url))
            self.read.append(found)
            told = json.loads(found["machine"])
            epoch = json.loads(found["rendezvous"])["group"]["epoch"] if "rendezvous" in found else 0
            stages = ("booting", "cleaning", "ready") if "clean" in found else ("booting", "ready")
            if "clean" in found:
                self.cleaned.append(found["clean"].strip())
            for stage in stages:
                said = {"stage": stage, "boot_id": "first", "epoch": epoch}
                self.reports.append((stage, report(told["report_url"], told["token"], said)))
        except OSError as error:
            self.reports.append((str(error), 0))


def fetch(url: str) -> bytes:
    """What the address gives. Raises OSError."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
        return content


def report(url: str, token: str, said: dict[str, Any]) -> int:
    """Say something as a machine's guest; the answer's code."""
    request = urllib.request.Request(url, json.dumps(said).encode(), {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


class _Handler(BaseHTTPRequestHandler):
    bmc: Bmc
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def _serve(self, method: str) -> None:
        self.bmc.requests += 1
        self.bmc.basic += "Authorization" in self.headers
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.rstrip("/")
        if self.bmc.faults["silent"]:
            if self.bmc.faults["silent"] > 30:
                self.bmc.heard.wait(120)
            else:
                time.sleep(self.bmc.faults["silent"])
            self.close_connection = True
            return
        if self.bmc.strikes("busy"):
            self._answer(503, {"error": {"code": "busy", "message": "busy"}}, retry_after=self.bmc.retry_after)
        elif path == SESSIONS and method == "POST":
            self._log_in(json.loads(body))
        elif path == "/redfish/v1":
            self._answer(200, _ROOT)
        elif self.headers.get("X-Auth-Token") not in self.bmc.sessions:
            self._answer(401, {"error": {"code": "Base.1.0.NoValidSession", "message": "no"}})
        elif method == "DELETE":
            self.bmc.sessions.discard(path.rsplit("/", 1)[-1])
            self._answer(204, None)
        elif method == "GET":
            found = _resource(self.bmc, path)
            self._answer(200 if found else 404, found or {"error": {"code": "none", "message": path}})
        elif method == "PATCH":
            self._change(path, json.loads(body))
        else:
            self._act(path, json.loads(body or b"{}"))

    def _log_in(self, given: dict[str, str]) -> None:
        right = (given.get("UserName"), given.get("Password")) == (ACCOUNT, PASSWORD)
        if not right or self.bmc.faults["locked account"]:
            self._answer(401, {"error": {"code": "denied", "message": "denied"}})
        elif len(self.bmc.sessions) >= self.bmc.most_sessions:
            self._answer(503, {"error": {"code": "SessionLimitExceeded", "message": "too many"}})
        else:
            token = secrets.token_hex(8)
            self.bmc.sessions.add(token)
            self._answer(201, {"@odata.id": f"{SESSIONS}/{token}", "Id": token, "Name": "s"}, token=token)

    def _change(self, path: str, body: dict[str, Any]) -> None:
        if "weak etags" in self.bmc.quirks and self.headers.get("If-Match", "").startswith("W/"):
            self._answer(412, {"error": {"code": "Base.1.8.PreconditionFailed", "message": "another version"}})
        elif path == DRIVE:
            self.bmc.image = body["Image"] or ""
            self._answer(204, None)
        elif not self.bmc.strikes("override_ignored"):
            self.bmc.boot |= body["Boot"]
            if self.bmc.boot["BootSourceOverrideEnabled"] == "Continuous" and "once alone" in self.bmc.quirks:
                self.bmc.boot["BootSourceOverrideEnabled"] = "Once"
            self._answer_or_lose("PATCH", 204)
        else:
            self._answer(204, None)

    def _refused(self, name: str, body: dict[str, Any]) -> tuple[str, str] | None:
        """How a make refuses what another takes: code and message."""
        if name == "InsertMedia" and self.bmc.image and "SYS518" in self.bmc.quirks:
            return "IDRAC.2.5.SYS518", "The virtual media is attached already."
        if name == "InsertMedia" and "reads the image" in self.bmc.quirks:
            try:
                fetch(body["Image"])
            except urllib.error.HTTPError as error:
                self.bmc.unread.append(error.code)
                return "Base.1.12.ResourceAtUriUnauthorized", "The image cannot be read."
        if name == "InsertMedia" and "protocol" in self.bmc.quirks and "TransferProtocolType" not in body:
            return "Base.1.12.GeneralError", "The parameter TransferProtocolType is missing."
        if name == "EjectMedia" and "no body" in self.bmc.quirks and int(self.headers.get("Content-Length") or 0) == 0:
            return "Base.1.4.MalformedJSON", "The request has no body."
        return None

    def _act(self, path: str, body: dict[str, Any]) -> None:
        name = path.rsplit(".", 1)[-1]
        code = 204
        missing = next((one for one in self.bmc.wanted if one not in body), "") if name == "InsertMedia" else ""
        if missing:
            self._answer(400, self.bmc.wanted[missing])
            return
        if (refused := self._refused(name, body)) is not None:
            self._answer(400, {"error": {"code": refused[0], "message": refused[1]}})
            return
        if name == "Reset":
            code = self.bmc.reset(body["ResetType"])
            if self.bmc.strikes("busy after Reset"):
                self.bmc.faults["busy"] = 4
        elif name == "InsertMedia":
            if self.bmc.image or self.bmc.strikes("insert_refused"):
                code = 409  # what is in there stays
            elif not self.bmc.strikes("insert_ignored"):
                self.bmc.image = body["Image"]
        elif name == "EjectMedia" and not self.bmc.strikes("eject_ignored"):
            self.bmc.image = ""
        self._answer_or_lose(name, 202 if code == 204 and self.bmc.strikes(f"task {name}") else code)

    def _answer_or_lose(self, name: str, code: int) -> None:
        if self.bmc.strikes(f"lose {name}"):
            self.close_connection = True
            self.connection.close()
        elif self.bmc.strikes(f"500 {name}"):
            self._answer(500, {"error": {"code": "internal", "message": "an error"}})
        else:
            told = {204: None, 202: {"@odata.id": "/redfish/v1/TaskService/Tasks/1", "Id": "1", "Name": "task"}}
            self._answer(code, told.get(code, {"error": {"code": "refused", "message": "refused"}}))

    def _answer(self, code: int, said: object, *, token: str = "", retry_after: str = "") -> None:
        content = b"" if said is None else json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(content)))
        if token:
            self.send_header("X-Auth-Token", token)
            self.send_header("Location", f"{SESSIONS}/{token}")
        if retry_after:
            self.send_header("Retry-After", retry_after)
        if "weak etags" in self.bmc.quirks:
            self.send_header("ETag", f'W/"{self.bmc.requests}"')
        if "PATCH" in self.bmc.quirks:
            self.send_header("Allow", "GET, PATCH")
        self.end_headers()
        self.wfile.write(content)


_ROOT = {
    "@odata.id": "/redfish/v1/", "Id": "RootService", "Name": "Root", "RedfishVersion": "1.11.0",
    "Systems": {"@odata.id": "/redfish/v1/Systems"},
    "Managers": {"@odata.id": "/redfish/v1/Managers"},
    "SessionService": {"@odata.id": "/redfish/v1/SessionService"},
    "Links": {"Sessions": {"@odata.id": SESSIONS}},
}  # fmt: skip


def _collection(path: str, *members: str) -> dict[str, Any]:
    return {"@odata.id": path, "Name": path, "Members": [{"@odata.id": one} for one in members]}


def _resource(bmc: Bmc, path: str) -> dict[str, Any] | None:
    power = None if bmc.strikes("power_null") else bmc.power
    if path == SYSTEM and bmc.shown:
        power = bmc.shown.pop(0)
    system = {
        "@odata.id": SYSTEM, "Id": "1", "Name": "machine", "UUID": bmc.uuid, "PowerState": power,
        "Manufacturer": "Maker", "Model": "M1", **bmc.inventory,
        "Boot": {
            "BootSourceOverrideMode": "UEFI", **bmc.boot,
            "BootSourceOverrideTarget@Redfish.AllowableValues": bmc.allowed,
        },
        "Processors": {"@odata.id": f"{SYSTEM}/Processors"},
        "EthernetInterfaces": {"@odata.id": f"{SYSTEM}/EthernetInterfaces"},
        "SecureBoot": {"@odata.id": f"{SYSTEM}/SecureBoot"},
        "Links": {"ManagedBy": [{"@odata.id": MANAGER}], "Chassis": []},
        "Actions": {"#ComputerSystem.Reset": {
            "target": f"{SYSTEM}/Actions/ComputerSystem.Reset",
            "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "GracefulShutdown"],
        }},
    }  # fmt: skip
    known: dict[str, dict[str, Any]] = {
        "/redfish/v1/SessionService": {
            "@odata.id": "/redfish/v1/SessionService", "Id": "S", "Name": "S", "ServiceEnabled": True,
            "Sessions": {"@odata.id": SESSIONS},
        },
        "/redfish/v1/Systems": _collection("/redfish/v1/Systems", SYSTEM),
        SYSTEM: system,
        f"{SYSTEM}/Processors": _collection(
            f"{SYSTEM}/Processors", f"{SYSTEM}/Processors/CPU1", f"{SYSTEM}/Processors/GPU1"
        ),
        f"{SYSTEM}/Processors/CPU1": {
            "@odata.id": "c", "Id": "CPU1", "Name": "CPU1", "ProcessorType": "CPU", "ProcessorArchitecture": "x86",
        },
        f"{SYSTEM}/Processors/GPU1": {
            "@odata.id": "g", "Id": "GPU1", "Name": "GPU1", "ProcessorType": "GPU", "Model": "A100 80GB",
        },
        f"{SYSTEM}/EthernetInterfaces": _collection(f"{SYSTEM}/EthernetInterfaces", f"{SYSTEM}/EthernetInterfaces/1"),
        f"{SYSTEM}/EthernetInterfaces/1": {
            "@odata.id": "e", "Id": "1", "Name": "1", "MACAddress": "52:54:00:AA:00:01", "Status": {"State": "Enabled"},
        },
        f"{SYSTEM}/SecureBoot": {"@odata.id": "s", "Id": "S", "Name": "S", "SecureBootEnable": False},
        "/redfish/v1/Managers": _collection("/redfish/v1/Managers", MANAGER),
        MANAGER: {
            "@odata.id": MANAGER, "Id": "1", "Name": "BMC", "UUID": f"b{bmc.uuid[1:]}", "LastResetTime": bmc.started,
            "VirtualMedia": {"@odata.id": f"{MANAGER}/VirtualMedia"},
        },
        f"{MANAGER}/VirtualMedia": _collection(f"{MANAGER}/VirtualMedia", DRIVE),
        DRIVE: {
            "@odata.id": DRIVE, "Id": "Cd", "Name": "Cd", "MediaTypes": ["CD"],
            "Image": bmc.image or None, "Inserted": bool(bmc.image),
            "Actions": {
                "#VirtualMedia.InsertMedia": {"target": f"{DRIVE}/Actions/VirtualMedia.InsertMedia"},
                "#VirtualMedia.EjectMedia": {"target": f"{DRIVE}/Actions/VirtualMedia.EjectMedia"},
            },
        },
    }  # fmt: skip
    if (found := known.get(path)) is None:
        return None
    for name, value in bmc.changes.get(path, {}).items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = {**found[name], **value} if isinstance(found.get(name), dict) else value
    return found
