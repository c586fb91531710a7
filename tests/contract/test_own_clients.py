"""The pages about clients of one's own are run as they stand: their commands, and the programs that they show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.process import ServiceProcess

PAGES = ROOT / "deploy" / "clients"
GRPC_JS = ROOT / ".cache" / "tools" / "grpc-js" / "node_modules"
_BLOCK = re.compile(r"^```(\w+)(?: ([\w.]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Where the pages say that the service is.
_ADDRESS = "127.0.0.1:9090"
# Where Debian puts the sources of Go's libraries.
_GO_LIBRARIES = Path("/usr/share/gocode")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the definitions."""
    target = tmp_path_factory.mktemp("archive") / "corral-protos.tar.gz"
    subprocess.run([sys.executable, ROOT / "protos" / "generate.py", "archive", target], check=True, timeout=60)
    return target


def need(*programs: str) -> None:
    """Skip where one of the programs is not here."""
    if missing := [name for name in programs if shutil.which(name) is None]:
        pytest.skip(f"not installed here: {', '.join(missing)}")


def follow(page: str, directory: Path, address: str, environment: dict[str, str]) -> str:
    """Do what the page says but for installing, in `directory`; what its commands print."""
    commands = ["set -eu"]
    for kind, name, text in _BLOCK.findall((PAGES / page).read_text()):
        if kind != "sh":
            (directory / name).write_text(text)
        elif name != "install":
            assert name == "", name
            # Each block begins where the first one did.
            commands.append(f"cd {directory}\n{text.replace(_ADDRESS, address)}")
    done = subprocess.run(
        ["bash", "-c", "\n".join(commands)],
        cwd=directory, env={**os.environ, **environment}, capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def told(text: str, reason: str = "NO_CAPACITY|UNSATISFIABLE") -> int:
    """How many events it was until the group ran. Fails where the program did not get to its end."""
    lines = text.splitlines()
    assert lines[-1] == "Deleted", text
    assert any(re.search(reason, line) for line in lines[:-1]), text
    return next(index for index, line in enumerate(lines) if line.startswith("Running"))


@pytest.fixture
def here(tmp_path: Path, archive: Path) -> Path:
    """A directory with the archive."""
    shutil.copy(archive, tmp_path / "corral-protos.tar.gz")
    return tmp_path


def test_the_archive_is_all_that_a_plain_protoc_needs(here: Path) -> None:
    need("protoc", "tar")
    subprocess.run(["tar", "xzf", "corral-protos.tar.gz", "--strip-components=1"], cwd=here, check=True, timeout=60)
    files = sorted(str(path.relative_to(here)) for path in here.glob("corral/v1/*.proto"))
    assert len(files) == len(list((ROOT / "protos/corral/v1").glob("*.proto")))
    command = [
        "protoc",
        "-I",
        ".",
        "--descriptor_set_out=all.binpb",
        "--cpp_out=.",
        *files,
        "google/rpc/error_details.proto",
    ]
    # Nothing else is on its path, and it warns of nothing.
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_the_archive_is_the_same_whoever_packs_it(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar.gz"
    subprocess.run([sys.executable, ROOT / "protos" / "generate.py", "archive", again], check=True, timeout=60)
    assert again.read_bytes() == archive.read_bytes()


def test_python(service: ServiceProcess, here: Path, passed: Callable[[str], None]) -> None:
    (here / "generated").mkdir()
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
    }
    events = told(follow("python.md", here, service.grpc, environment))
    assert (here / "generated/corral/v1/deploy_pb2_grpc.py").exists()
    passed(f"own client in Python: the page's program, {events} events, the reason of a refusal, delete")


def test_node(service: ServiceProcess, here: Path, passed: Callable[[str], None]) -> None:
    need("node")
    if not GRPC_JS.is_dir():
        pytest.skip("grpc-js is not installed: make dev, where npm is")
    text = follow("node.md", here, service.grpc, {"NODE_PATH": str(GRPC_JS)})
    events = told(text, r"google\.rpc\.ErrorInfo")
    passed(f"own client in Node: the page's program, {events} events, an error's typed details, delete")


@pytest.mark.slow
def test_go(service: ServiceProcess, here: Path, passed: Callable[[str], None]) -> None:
    need("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    if not (_GO_LIBRARIES / "src/google.golang.org/grpc").is_dir():
        pytest.skip("not installed here: golang-google-grpc-dev")
    # Debian's libraries are sources on GOPATH; the page's own package stands beside them.
    workspace = here / "go" / "src" / "example"
    workspace.mkdir(parents=True)
    shutil.move(here / "corral-protos.tar.gz", workspace)
    environment = {"GO111MODULE": "off", "GOFLAGS": "", "CGO_ENABLED": "0", "GOPATH": f"{here / 'go'}:{_GO_LIBRARIES}"}
    events = told(follow("go.md", workspace, service.grpc, environment))
    passed(f"own client in Go: the page's program, {events} events, the reason of a refusal, delete")


@pytest.mark.slow
def test_java(service: ServiceProcess, here: Path, passed: Callable[[str], None]) -> None:
    need("java", "javac", "protoc", "grpc_java_plugin")
    if not Path("/usr/share/java/grpc-netty.jar").exists():
        pytest.skip("not installed here: libgrpc-java")
    environment = {name: value for name, value in os.environ.items() if name != "CLASSPATH"}
    events = told(follow("java.md", here, service.grpc, environment))
    passed(f"own client in Java: the page's program, {events} events, the reason of a refusal, delete")
