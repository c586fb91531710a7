"""The wheel, installed with some of its extras: what each of them lets somebody do, and what it does not ask for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from zipfile import Path as ZipPath

import pytest
from corral.v1 import group_pb2
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT
from tests.support.builders import ENTRY, ZONE
from tests.support.process import CONFIGURATION, CorralProcess

OF_THE_SERVER = (
    "alembic",
    "cryptography",
    "numpy",
    "ortools",
    "pydantic",
    "sqlalchemy",
    "starlette",
    "uvicorn",
)
OF_HYPERVISORS = ("libvirt", "pycdlib", "psycopg")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: building leaves files where the source is."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("placement", "service", "protos"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out), str(source))
    (built,) = out.glob("corral-*.whl")
    return built


def pip(*arguments: str) -> None:
    """Run pip of this environment. Raises AssertionError with what it told."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def required(found: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """(name, extras) of what a distribution with these extras requires here."""
    for text in found.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in (*extras, "")):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def closure(wheel: Path, extras: frozenset[str]) -> dict[str, Distribution]:
    """Everything that the wheel with these extras requires, by name, as this environment has it."""
    (metadata,) = [path for path in ZipPath(wheel).iterdir() if path.name.endswith(".dist-info")]
    found: dict[str, Distribution] = {}
    left = list(required(PathDistribution(metadata), extras))
    done = set()
    while left:
        name, its_extras = left.pop()
        if (name, its_extras) in done:
            continue
        done.add((name, its_extras))
        found[name] = distribution(name)
        left += required(found[name], its_extras)
    return found


def install(wheel: Path, directory: Path, *extras: str) -> Path:
    """A new environment with the wheel and what it requires with these extras; its directory of programs.

    What it requires is linked from this environment: nothing is fetched, and the versions are those of the tests.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True, timeout=60)
    python = directory / "bin/python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(directory)}))
    assert packages.is_dir()
    for found in closure(wheel, frozenset(extras)).values():
        link(found, packages)
    pip("--python", str(python), "install", "--no-deps", "--no-index", "--no-compile", str(wheel))
    pip("--python", str(python), "check")
    return python.parent


def link(found: Distribution, packages: Path) -> None:
    """Put a distribution of this environment into another one's packages."""
    for file in found.files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path(str(file.locate())))


def missing(programs: Path, names: tuple[str, ...]) -> set[str]:
    """Those of the modules that cannot be imported in the environment."""
    code = f"from importlib.util import find_spec; print(*(name for name in {names!r} if find_spec(name) is None))"
    return set(run(programs / "python", "-c", code).split())


def run(program: Path, *arguments: str) -> str:
    """What a program of an installation prints, away from the checkout. Raises AssertionError where it fails."""
    command = [str(program), *arguments]
    done = subprocess.run(command, cwd="/", env={}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an installation without extras."""
    return install(wheel, tmp_path_factory.mktemp("client") / "venv")


def test_without_extras_nothing_of_the_server_is_installed(client: Path) -> None:
    names = (*OF_THE_SERVER, *OF_HYPERVISORS, "sushy")
    assert missing(client, names) == set(names)


def test_the_command_and_the_client_work_without_extras(client: Path, tmp_path: Path) -> None:
    assert "deploy" in run(client / "corral", "--help")
    request = tmp_path / "request.json"
    node = {"uuid": ENTRY, "zoneUuid": ZONE, "cpuNum": 1, "memorySize": 1 << 28}
    request.write_text(
        json.dumps({"name": "by the command", "serviceCreationStrategy": "parallel", "modelServices": [node]})
    )
    with CorralProcess(tmp_path, CONFIGURATION) as service:
        told = run(client / "corral", "--server", service.grpc, "deploy", "-f", str(request))
        assert "by the command: Running" in told
        code = (
            f"from service.client import CorralClient; print(*(g.name for g in CorralClient({service.grpc!r}).list()))"
        )
        assert run(client / "python", "-c", code) == "by the command\n"


def test_a_program_with_the_client_is_checked_by_strict_types(client: Path, tmp_path: Path) -> None:
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(client.parent)}))
    for name in ("types-grpcio", "types-protobuf"):
        link(distribution(name), packages)
    page = (ROOT / "deploy/clients/python.md").read_text()
    (text,) = re.findall(r"^```python deploy\.py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    program = tmp_path / "deploy.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache"),
               "--python-executable", str(client / "python"), str(program)]  # fmt: skip

    def checked(source: str) -> str:
        program.write_text(source)
        # Its own environment and directory: this project's sources are not in its sight.
        return subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=240).stdout

    assert checked(text).startswith("Success"), checked(text)
    # The types are known, and not just any.
    assert '"InstanceGroup" has no attribute "state"' in checked(
        text.replace("print(group.status,", "print(group.state,")
    )


def test_what_is_pinned_for_the_client_is_what_it_requires(wheel: Path) -> None:
    text = (ROOT / "deploy/requirements/client.txt").read_text()
    pinned = {canonicalize_name(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)}
    assert pinned - {"setuptools"} == set(closure(wheel, frozenset()))


def test_the_server_runs_on_simulated_hosts_without_libvirt_and_postgresql(wheel: Path, tmp_path: Path) -> None:
    programs = install(wheel, tmp_path / "venv", "server")
    assert missing(programs, OF_THE_SERVER) == set()
    assert missing(programs, OF_HYPERVISORS) == set(OF_HYPERVISORS)
    directory = tmp_path / "run"
    directory.mkdir()
    node = group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=1, memory_size=1 << 28)
    with CorralProcess(directory, CONFIGURATION, python=programs / "python") as service:
        assert service.follow(service.deploy("from the wheel", [node])).status == "Running"
