"""Every command in the README does what the README says, on a service with simulated hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from service.cli.main import corral
from tests.readme.commands import files, readme
from tests.service.rpc.test_catalog import qcow2
from tests.support import ROOT
from tests.support.process import ENVIRONMENT, ServiceProcess

CONFIG = """
[server]
grpc = "unix:GRPC"
http = "127.0.0.1:0"
[[tokens]]
name = "local"
file = "token"
role = "admin"
[[zones]]
uuid = "7a007a391d483c9f843bf1df4b7e5d8f"
name = "zone-1"
[[hosts]]
name = "simulated-1"
zone = "zone-1"
driver = "simulated"
transport = "test"
[[images]]
name = "default-guest"
kernel = "vmlinuz"
[[model_services]]
uuid = "f1e135835fee363c9f57ed8232023886"
name = "default"
image = "default-guest"
"""
# Run by tests/readme/test_quickstart.py, or this very run.
CONTAINER = [command for command in readme() if "engine" in command and command.startswith("corral ")]
"""Run by tests/integration/test_container_image.py: they take a registry and a guest that runs containers."""
MAKE = ("make run", "make down", "make run ARGS=--once", "make test")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """What the README says -> what it is for a service with one simulated host."""
    directory = tmp_path_factory.mktemp("readme")
    config = directory / "corral.toml"
    grpc, token = str(directory / "grpc.sock"), directory / "token"
    token.write_text("a-token-of-this-test\n")
    config.write_text(CONFIG.replace("GRPC", grpc))
    (directory / "my-model.qcow2").write_bytes(qcow2())
    for name, text in files().items():
        (directory / name).write_text(text)
    with ServiceProcess(config) as service:
        http = service.http.removeprefix("http://")
        mine = {f" {name}": f" {directory / name}" for name in ("my-model.qcow2", *files())}
        yield {"/run/corral/grpc.sock": grpc, "127.0.0.1:8080": http, "var/token": str(token), **mine}


def test_every_command_of_the_readme_is_run_by_a_test() -> None:
    kinds = ("grpcurl ", "curl ", "corral ", "export PATH=", "python -m service ")
    assert [command for command in readme() if command not in MAKE and not command.startswith(kinds)] == []
    assert set(MAKE) <= set(readme())


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / "README.md").read_text() + (ROOT / "deploy/README.md").read_text()
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", text))
    assert named
    assert named <= targets


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    assert re.search(r"^make test\b", (ROOT / ".ci/run").read_text(), re.MULTILINE)


def test_every_file_that_is_linked_exists() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "deploy").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_verb_that_the_guides_name_is_one_of_the_command() -> None:
    for document in sorted((ROOT / "deploy").glob("*.md")):
        named = set(re.findall(r"`corral ([a-z][a-z-]*)", document.read_text()))
        # "corral cannot start" is what the service says.
        assert named <= {*corral.commands, "cannot"}, document.name


def test_the_calls_of_the_readme_do_what_it_says(places: Mapping[str, str]) -> None:
    answers = {}
    environment = {**os.environ, **ENVIRONMENT, "CORRAL_SERVER": f"unix:{places['/run/corral/grpc.sock']}"}
    for command in readme():
        if (
            not command.startswith(("grpcurl ", "curl ", "corral ", "python -m service print-config "))
            or command in CONTAINER
        ):
            continue
        # The interpreter's own directory is what the README's first line puts in front.
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        here = command
        for told_place, place in places.items():
            here = here.replace(told_place, place)
        done = subprocess.run(
            ["bash", "-c", here],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        answers[command] = done
        expected = 0
        if "too-big" in command:
            expected = 64 + 9  # grpcurl: 64 + FAILED_PRECONDITION
            assert "PlacementFailure" in done.stderr
        elif "WatchInstanceGroups" in command:
            expected = 64 + 4  # it never ends by itself: -max-time ends it
        assert done.returncode == expected, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

    def told(part: str) -> str:
        return next(done.stdout for command, done in answers.items() if part in command)

    assert "corral.v1.DistributedModelService" in told(" list")
    assert '"SERVING"' in told("Health/Check")
    assert told("/DeployDistributedModelService").count('"Running"') >= 3
    assert "c0ffee00c0ffee00c0ffee00c0ffee00" in told("ListInstanceGroups")
    assert '"Running"' in told("GetInstanceGroup")
    assert '"instance"' in told("WatchInstanceGroups")
    assert '"Deleted"' in told("DeleteInstanceGroup")
    (final,) = [line for line in told("by-http").splitlines() if '"final"' in line]
    assert '"status": "Running"' in final
    assert '"by-http"' in told("curl -s -H")
    assert "another: Running" in told("corral deploy deploy/")
    assert "my-model is uploaded" in told("corral image upload")
    assert "my-models: Running" in told("corral deploy my-model-group")
    assert "another" in told("corral groups")
    assert "accepted  another" in told("--timeline")
    assert "0 leader: Running" in told("--timeline")
    assert "claimed" in told("corral hosts")
    assert "more of this fit" in told("corral capacity")
    assert 'level = "debug"' in told("print-config")
