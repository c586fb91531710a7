"""The guide's commands for a new certificate and a new token, as they stand there: no restart, no call that fails."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.lab.namespaces import wait_until
from tests.support import ROOT
from tests.support.certificates import certificate
from tests.support.process import CONFIGURATION, ENVIRONMENT, ServiceProcess

HEAD = """
[server]
grpc = "127.0.0.1:0"
http = "127.0.0.1:0"
tls = {certificate = "server.pem", key = "server.key"}
[store]
url = "sqlite:///corral.db"
[log]
format = "json"
"""
OLD = "the old one"
NEW_ENTRY = 'name = "root-2"'


def blocks() -> list[list[str]]:
    """Its commands for a certificate, and those for a token."""
    guide = (ROOT / "deploy/INSTALL.md").read_text()
    section = guide.partition("## Certificates and tokens\n")[2].partition("\n## ")[0]
    found = re.findall(r"(?:^ {6}.*\n|^\n(?= {6}))+", section, re.MULTILINE)
    return [textwrap.dedent(text).strip("\n").splitlines() for text in found]


def test_the_guide_has_the_commands() -> None:
    assert [len(block) for block in blocks()] == [4, 9]


class Operator:
    """Who types the guide's lines on the server of this process."""

    def __init__(self, service: ServiceProcess, trusted: Path) -> None:
        self._service = service
        self._trusted = trusted
        self._places = {
            "/etc/corral": str(service.directory),
            "/root": str(service.directory),
            "install -g corral ": "install ",  # there is no such group here
            "systemctl reload corral": f"kill -HUP {service.pid}",
        }

    def types(self, lines: list[str], token: str = "") -> str:
        """What they tell. `token`: shows this one to the service."""
        script = "\n".join(lines)
        for told, place in self._places.items():
            script = script.replace(told, place)
        script = re.sub(r"\bcorral (?=config|audit|host)", f"{sys.executable} -m service.cli ", script)
        shown = {"CORRAL_SERVER": self.target, "CORRAL_CA": str(self._trusted), "CORRAL_TOKEN": token}
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=self._service.directory,
            env={**os.environ, **ENVIRONMENT, **shown},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{script}: {done}"
        return done.stdout

    @property
    def target(self) -> str:
        """By the name that its certificate has."""
        return f"localhost:{self._service.grpc.rpartition(':')[2]}"


class Caller:
    """Calls by new connections, trusting each of these certificates."""

    def __init__(self, service: ServiceProcess, trusted: Sequence[Path]) -> None:
        self._url = f"https://localhost:{service.http.rpartition(':')[2]}/corral/v1/hosts"
        # Of two authorities of one name OpenSSL tries one alone.
        self._trusts = [ssl.create_default_context(cafile=str(path)) for path in trusted]
        self.answers: list[int] = []

    def answer(self, token: str) -> int:
        """The status of one call; 0 where no certificate that is trusted was shown."""
        for trusts in self._trusts:
            try:
                headers = {"authorization": f"Bearer {token}"}
                return httpx.get(self._url, headers=headers, verify=trusts, timeout=60, trust_env=False).status_code
            except httpx.ConnectError as error:
                if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                    raise
        return 0

    @contextmanager
    def all_the_while(self, token: str) -> Iterator[None]:
        """One call after the other with this token."""
        over = threading.Event()

        def calls() -> None:
            while not over.wait(0.01):
                self.answers.append(self.answer(token))

        thread = threading.Thread(target=calls)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(120)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[ServiceProcess, Operator, Caller, bytes]]:
    (public, private), (new, new_key) = certificate(), certificate()
    for name, content in (("server.pem", public), ("server.key", private), ("new.pem", new), ("new.key", new_key)):
        (tmp_path / name).write_bytes(content)
    old = tmp_path / "old.pem"
    old.write_bytes(public)
    (tmp_path / "none").touch()
    token = f'[[tokens]]\nname = "root"\nrole = "admin"\nsha256 = "{hashlib.sha256(OLD.encode()).hexdigest()}"\n'
    file = tmp_path / "corral.toml"
    file.write_text(HEAD + CONFIGURATION.replace("/boot/none", str(tmp_path / "none")) + token)
    with ServiceProcess(file) as service:
        yield service, Operator(service, old), Caller(service, (old, tmp_path / "new.pem")), new


def shown(service: ServiceProcess) -> bytes:
    """The certificate that a new connection is shown, as PEM."""
    return ssl.get_server_certificate(("localhost", int(service.http.rpartition(":")[2])), timeout=60).encode()


def test_a_certificate_is_replaced_by_the_guides_lines(
    running: tuple[ServiceProcess, Operator, Caller, bytes],
) -> None:
    service, operator, caller, new = running
    before = service.pid
    with caller.all_the_while(OLD):
        wait_until(lambda: bool(caller.answers), 60, "a call")
        operator.types(blocks()[0])
        wait_until(lambda: shown(service) == new, 60, "the new certificate to be shown")
    assert set(caller.answers) == {200}
    assert service.pid == before
    assert (service.directory / "server.key").stat().st_mode & 0o777 == 0o640


def test_a_token_is_replaced_by_the_guides_lines(running: tuple[ServiceProcess, Operator, Caller, bytes]) -> None:
    service, operator, caller, _ = running
    (told,) = re.findall(r"when `(corral audit .*?)` is empty", (ROOT / "deploy/INSTALL.md").read_text())
    with caller.all_the_while(OLD):
        wait_until(lambda: bool(caller.answers), 60, "a call")
        operator.types(["corral host disable one"], OLD)
        operator.types(blocks()[1])
        new = (service.directory / "new.token").read_text().strip()
        wait_until(lambda: caller.answer(new) == 200, 60, "the new token to be good")
    assert set(caller.answers) == {200}
    assert (service.directory / "new.token").stat().st_mode & 0o777 == 0o600

    assert "DisableHost" in operator.types([told], new), "somebody had the old one"
    operator.types(["corral host enable one"], new)
    assert "EnableHost" not in operator.types([told], new)
    text = service.configuration.read_text()
    head, _, later = text.partition('[[tokens]]\nname = "root"\n')
    assert NEW_ENTRY in later
    service.configuration.write_text(f"{head}[[tokens]]{later.partition('[[tokens]]')[2]}")
    os.kill(service.pid, signal.SIGHUP)
    wait_until(lambda: caller.answer(OLD) == 401, 60, "the old one to be refused")
    assert caller.answer(new) == 200
