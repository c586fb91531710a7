"""How a BMC is reached, by fields. Its password is a file's, read when it is used, and stands nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from service.domain.fleet import HostAddress
from service.domain.seats import is_base
from service.drivers.base import HostRejected

DEFAULT_PORT = 443
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_SYSTEM = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class Access:
    """How a BMC is reached. `ca_file`: who signed its certificate; `fingerprint`: SHA-256 of the certificate itself, 64
    hexadecimal digits; without either the system's authorities sign. `system`: the id of one of several."""

    url: str
    username: str
    password_file: str
    ca_file: str = ""
    fingerprint: str = ""
    system: str = ""

    def password(self) -> str:
        """What the file says now. Raises HostRejected."""
        try:
            text = Path(self.password_file).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise HostRejected("denied", "the file with the BMC's password cannot be read", str(error)) from error
        if not text:
            raise HostRejected("denied", "the file with the BMC's password is empty")
        return text


@dataclass(frozen=True, slots=True)
class Options:
    """A redfish host's options. `seed_url`, `report_url`: this service's listener for machines, as the BMC and as the
    machine itself reach it; empty where neither the host nor its zone says it."""

    access: Access
    seed_url: str
    report_url: str


def options_of(address: HostAddress) -> Options:
    """The options, checked. Raises HostRejected `bad_request` that names the wrong one."""
    access, given = access_of(address), address.options
    for name in ("seed_url", "report_url"):
        if (url := given.get(name, "")) and not is_base(url):
            raise _wrong(f"option {name!r} is not an address such as http://10.0.0.1:8081")
    seed_url = given.get("seed_url", "")
    return Options(access, seed_url, given.get("report_url") or seed_url)


def access_of(address: HostAddress) -> Access:
    """How the BMC is reached, checked. Raises HostRejected `bad_request` that names the wrong field."""
    given = dict(address.options)
    if not address.username:
        raise _wrong("username is required: the BMC's account")
    fingerprint = given.get("fingerprint", "").replace(":", "").lower()
    if fingerprint and not _FINGERPRINT.fullmatch(fingerprint):
        raise _wrong("option 'fingerprint' is not the SHA-256 of a certificate, 64 hexadecimal digits")
    if fingerprint and given.get("ca_file"):
        raise _wrong("options 'ca_file' and 'fingerprint' are two ways to know a BMC: give one")
    system = given.get("system", "")
    if system and not _SYSTEM.fullmatch(system):
        raise _wrong("option 'system' is not the id of a Redfish system")
    name = f"[{address.address}]" if ":" in address.address else address.address
    return Access(
        f"https://{name}:{address.port or DEFAULT_PORT}",
        address.username,
        given.get("password_file", ""),
        given.get("ca_file", ""),
        fingerprint,
        system,
    )


def _wrong(text: str) -> HostRejected:
    return HostRejected("bad_request", text)
