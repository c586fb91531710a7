"""The pages about clients of one's own, done as they stand: their commands, and the programs that they show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support import ROOT

ARCHIVE = "corral-protos.tar.gz"
_PAGES = ROOT / "deploy" / "clients"
_GRPC_JS = ROOT / ".cache" / "tools" / "grpc-js" / "node_modules"
_BLOCK = re.compile(r"^```(\w+)(?: ([\w.]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Where the pages say that the service is.
_ADDRESS = "127.0.0.1:9090"
# Where Debian puts the sources of Go's libraries.
_GO_LIBRARIES = Path("/usr/share/gocode")


def pack(target: Path) -> Path:
    """Write the archive of the definitions; its path."""
    subprocess.run([sys.executable, ROOT / "protos" / "generate.py", "archive", target], check=True, timeout=60)
    return target


def need(*programs: str) -> None:
    """Skip where one of the programs is not here."""
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"not installed here: {', '.join(missing)}")


def _python(directory: Path) -> tuple[Path, dict[str, str]]:
    (directory / "generated").mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return directory, {"PATH": path, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}


def _node(directory: Path) -> tuple[Path, dict[str, str]]:
    need("node")
    if not _GRPC_JS.is_dir():
        pytest.skip("grpc-js is not installed: make dev, where npm is")
    return directory, {"NODE_PATH": str(_GRPC_JS)}


def _go(directory: Path) -> tuple[Path, dict[str, str]]:
    need("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    if not (_GO_LIBRARIES / "src/google.golang.org/grpc").is_dir():
        pytest.skip("not installed here: golang-google-grpc-dev")
    # Debian's libraries are sources on GOPATH; the page's own package stands beside them.
    workspace = directory / "go" / "src" / "example"
    workspace.mkdir(parents=True)
    shutil.move(directory / ARCHIVE, workspace)
    path = f"{directory / 'go'}{os.pathsep}{_GO_LIBRARIES}"
    return workspace, {"GO111MODULE": "off", "GOFLAGS": "", "CGO_ENABLED": "0", "GOPATH": path}


def _java(directory: Path) -> tuple[Path, dict[str, str]]:
    need("java", "javac", "protoc", "grpc_java_plugin")
    if not Path("/usr/share/java/grpc-netty.jar").exists():
        pytest.skip("not installed here: libgrpc-java")
    return directory, {}


_LANGUAGES: Mapping[str, Callable[[Path], tuple[Path, dict[str, str]]]] = {
    "python": _python, "node": _node, "go": _go, "java": _java,
}  # fmt: skip
# Those that compile libraries take long.
LANGUAGES = ["python", "node", *(pytest.param(name, marks=pytest.mark.slow) for name in ("go", "java"))]


def follow(language: str, directory: Path, address: str, **environment: str) -> int:
    """Do what the language's page says but for installing, in a directory that has the archive.

    Returns how many events it was until the group ran. Skips where something that it needs is not here, fails where the
    program did not get to its end.
    """
    where, own = _LANGUAGES[language](directory)
    commands = ["set -eu"]
    for kind, name, text in _BLOCK.findall((_PAGES / f"{language}.md").read_text()):
        if kind != "sh":
            (where / name).write_text(text)
        elif name != "install":
            assert name == "", name
            # Each block begins where the first one did.
            commands.append(f"cd {where}\n{text.replace(_ADDRESS, address)}")
    inherited = {name: value for name, value in os.environ.items() if name != "CLASSPATH"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(commands)],
        cwd=where, env=inherited | own | environment, capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "Deleted", done.stdout
    # A refusal's reason, or that it is typed.
    assert any(re.search(r"NO_CAPACITY|UNSATISFIABLE|google\.rpc\.ErrorInfo", line) for line in lines), done.stdout
    return next(index for index, line in enumerate(lines) if line.startswith("Running"))
