"""ZStack's own SDKs for Java and Go, from their sources as they are, which are no part of this project.

`python -m tests.contract.zstack_sdks java go` drives a service by each of them and keeps what was said in
`tests/service/http/zstack/recorded/`, which is said again by tests that need no SDK. With `again` before the names what
was kept is said again and its answers are kept anew: for a change of the answers where the SDK is not at hand.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.contract import recording
from tests.service.http.zstack.lab import ENTRY, KEY_ID, KEY_SECRET, PASSWORD, PASSWORD_SHA512, ZONE, recorded
from tests.support import ROOT
from tests.support.process import ServiceProcess

HERE = ROOT / "tests" / "contract"
RECORDED = ROOT / "tests" / "service" / "http" / "zstack" / "recorded"
# Directories of the sources: of Java the one that holds `org/zstack/sdk`, of Go the one that holds `go.mod`.
JAVA_SOURCES, GO_SOURCES = "CORRAL_ZSTACK_SDK_JAVA", "CORRAL_ZSTACK_SDK_GO"
# What Java's sources need, as Debian has it (libokhttp-java, libgoogle-gson-java, libcommons-beanutils-java …).
_JARS = ("okhttp", "okio", "gson", "commons-beanutils", "commons-codec", "commons-logging", "servlet-api")


class Absent(Exception):
    """The SDK or its compiler is not on this machine; says what is missing."""


def _sources(variable: str, compiler: str) -> Path:
    if not os.environ.get(variable):
        raise Absent(f"ZStack's SDK is no part of this project: {variable} names no directory of its sources")
    if shutil.which(compiler) is None:
        raise Absent(f"{compiler} is not installed")
    return Path(os.environ[variable]).resolve()


def _run(command: list[str], directory: Path, environment: Mapping[str, str] | None = None) -> str:
    """The output of a compiler or a driver. Raises AssertionError with all that it said where it failed."""
    done = subprocess.run(
        command, cwd=directory, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def java(directory: Path) -> Callable[[str], str]:
    """Compiles the SDK with its driver in `directory`; what drives a service at HOST:PORT. Raises Absent."""
    sources = _sources(JAVA_SOURCES, "javac")
    jars = [Path("/usr/share/java") / f"{name}.jar" for name in _JARS]
    if gone := [jar.name for jar in jars if not jar.exists()]:
        raise Absent(f"not installed: {', '.join(gone)}")
    path = os.pathsep.join(map(str, jars))
    command = ["javac", "-nowarn", "-proc:none", "-encoding", "UTF-8", "-d", str(directory), "-cp", path]
    # Its package is not the folder that it lies in, so that javac does not find it by itself.
    classes = [str(file) for file in sources.glob("SourceClassMap.java")]
    _run([*command, "-sourcepath", str(sources), *classes, str(HERE / "zstack_java" / "Drive.java")], directory)

    def drive(address: str) -> str:
        host, port = address.rsplit(":", 1)
        arguments = [host, port, "admin", PASSWORD_SHA512, ZONE, ENTRY, KEY_ID, KEY_SECRET]
        return _run(["java", "-cp", f"{directory}{os.pathsep}{path}", "Drive", *arguments], directory)

    return drive


def go(directory: Path) -> Callable[[str], str]:
    """The same with the SDK for Go. Raises Absent."""
    sources = _sources(GO_SOURCES, "go")
    (directory / "drive.go").write_text((HERE / "zstack_go" / "drive.go").read_text())
    text = (sources / "go.mod").read_text()
    module = text.split()[1]
    # It is built with the versions that the SDK names; where they come from is told by Go's own GOPROXY.
    (directory / "go.mod").write_text(
        f"{text.replace(module, 'drive', 1)}\nrequire {module} v0.0.0\nreplace {module} => {sources}\n"
    )
    settings = {"GOFLAGS": "-mod=mod", "GONOSUMDB": "*", "GOTOOLCHAIN": "local", "GOWORK": "off", "CGO_ENABLED": "0"}
    _run(["go", "build", "-o", "drive", "drive.go"], directory, settings | {"GOPATH": str(directory / "path")})

    def drive(address: str) -> str:
        arguments = ["admin", PASSWORD, ZONE, ENTRY, KEY_ID, KEY_SECRET]
        return _run([str(directory / "drive"), *address.rsplit(":", 1), *arguments], directory)

    return drive


SDKS: Mapping[str, Callable[[Path], Callable[[str], str]]] = {"java": java, "go": go}


def rows(told: str) -> int:
    """How many rows passed. Raises AssertionError where one failed."""
    lines = told.splitlines()
    assert not [line for line in lines if line.startswith("FAIL")], told
    return len([line for line in lines if line.startswith("PASS")])


def repeat(name: str) -> Callable[[str], str]:
    """What says to a service at HOST:PORT what is kept, whatever its answers are now."""

    def drive(address: str) -> str:
        places = recording.Places(address)
        kept = recording.read(RECORDED / f"{name}.json")
        for exchange in kept:
            target, body = places.filled(exchange.target), places.filled(exchange.body)
            headers = {name: places.filled(value) for name, value in exchange.headers.items()}
            while True:
                connection = http.client.HTTPConnection(address, timeout=60)
                connection.request(exchange.method, target, body.encode() or None, headers)
                answer = connection.getresponse()
                text = answer.read().decode()
                connection.close()
                if exchange.method != "GET" or answer.status != 202:
                    break
                time.sleep(0.05)
            if not places.learn(exchange.answer, text):
                print(f"{exchange.method} {exchange.target}\nwas {exchange.answer}\nis  {text}")
                places.learn_around(exchange.answer, text)
        return ""

    return drive


def record(name: str, drive: Callable[[str], str]) -> None:
    """Keep what is said between the driver and a new service."""
    with tempfile.TemporaryDirectory() as made:
        file = Path(made, "corral.toml")
        file.write_text(recorded(Path(made), database="corral.db"))
        kept: list[recording.Exchange] = []
        with ServiceProcess(file) as service, recording.between(service.http.removeprefix("http://"), kept) as address:
            print(drive(address), end="")
        exchanges = recording.with_places(kept, address)
    recording.write(RECORDED / f"{name}.json", exchanges)
    print(f"{name}: {len(exchanges)} exchanges of {len(kept)} kept")


def main() -> None:
    again, names = sys.argv[1] == "again", [name for name in sys.argv[1:] if name != "again"]
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            record(name, repeat(name) if again else SDKS[name](Path(directory)))


if __name__ == "__main__":
    main()
