"""Several addresses of one service: what is lost at one goes on at another, or it is said where to take it up."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from corral.v1 import deploy_pb2, deploy_pb2_grpc
from google.rpc import error_details_pb2

from service.cli import channel, errors
from service.cli.main import main
from service.client import follow
from tests.service.cli.scripted import EVENTS, GROUP, Service, event, failure, group
from tests.support import ROOT

DEAD = "unix:/nonexistent/corral.sock"
GONE = failure(grpc.StatusCode.UNAVAILABLE, "going away")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(channel, "READY_SECONDS", 0.5)


@pytest.fixture
def other() -> Service:
    return Service()


@pytest.fixture
def both(address: str, other: Service) -> Iterator[str]:
    """The address of the scripted service, and that of another replica."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    deploy_pb2_grpc.add_DistributedModelServiceServicer_to_server(other, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"{address},127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_deploy_whose_server_is_lost_goes_on_at_the_next(
    service: Service, other: Service, both: str, request_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service.deploy = [*EVENTS[:3], GONE]
    other.watch = EVENTS[3:]
    assert main(["--server", both, "deploy", "-f", request_file]) == errors.OK
    (watched,) = other.requests
    assert isinstance(watched, deploy_pb2.WatchInstanceGroupsRequest)
    assert (watched.uuid, watched.start_revision) == (GROUP, 3)
    assert len(capsys.readouterr().out.splitlines()) == len(EVENTS)


def test_a_deploy_that_is_lost_before_its_first_event_may_have_begun_and_can_be_asked_for_again(
    service: Service, other: Service, both: str, request_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service.deploy = other.deploy = [GONE]
    assert main(["--server", both, "deploy", "-f", request_file]) == errors.UNAVAILABLE
    told = " ".join(capsys.readouterr().err.split())
    asked = [*service.requests, *other.requests]
    assert all(isinstance(one, deploy_pb2.DeployDistributedModelServiceRequest) for one in asked)
    (identity,) = {getattr(one, "request_id", "") for one in asked}
    assert "connection lost before the operation was heard of" in told
    assert f"may have begun, and goes on then; see the rest with: the same command with --request-id {identity}" in told


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
def test_a_stream_that_a_proxy_resets_is_a_lost_one(
    service: Service, other: Service, both: str, request_file: str, code: grpc.StatusCode
) -> None:
    service.deploy = [*EVENTS[:3], code]
    other.watch = EVENTS[3:]
    assert main(["--server", both, "deploy", "-f", request_file]) == errors.OK
    assert other.requests


def test_an_internal_error_of_the_service_itself_is_one(
    service: Service, other: Service, both: str, request_file: str
) -> None:
    own = error_details_pb2.ErrorInfo(reason="INTERNAL", domain="corral")
    service.deploy = [*EVENTS[:3], failure(grpc.StatusCode.INTERNAL, "internal error", own)]
    assert main(["--server", both, "deploy", "-f", request_file]) != errors.OK
    assert not other.requests


def test_a_deploy_of_which_nothing_was_heard_is_made_again_under_the_same_id(
    service: Service, other: Service, both: str, request_file: str
) -> None:
    service.deploy = [GONE]
    assert main(["--server", both, "deploy", "-f", request_file]) == errors.OK
    first, second = service.requests[0], other.requests[0]
    assert isinstance(first, deploy_pb2.DeployDistributedModelServiceRequest)
    assert first.request_id
    assert first == second


def test_an_address_that_nobody_serves_is_passed_over(service: Service, address: str) -> None:
    assert main(["--server", DEAD, "--server", address, "list"]) == errors.OK
    assert service.requests


def test_where_no_server_is_left_it_is_said_where_to_take_the_operation_up(
    service: Service,
    both: str,
    other: Service,
    request_file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(follow, "RETRIES", 2)
    service.deploy = [*EVENTS[:3], GONE]
    service.watch = other.watch = [GONE]
    assert main(["--server", both, "deploy", "-f", request_file]) == errors.UNAVAILABLE
    assert f"corral watch {GROUP} --from 3" in capsys.readouterr().err


def test_a_terminal_that_cannot_show_a_name_shows_the_rest(
    address: str, request_file: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = group("Running")
    final.name = "组-ünï"
    service.deploy = [event(1, final=final)]
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    assert main(["--server", address, "deploy", "-f", request_file]) == errors.OK
    assert b"final     ?-?n?: Running" in written.getvalue()


def test_letters_that_the_locale_does_not_have_are_taken_as_they_were_typed(address: str, service: Service) -> None:
    """From the command line and from standard input, in a process of its own: Python decodes both by its locale."""
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ascii_only["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "protos")])

    def corral(*words: str | bytes, stdin: str = "") -> tuple[int, str]:
        command = [sys.executable, "-m", "service.cli", "--server", address, *words]
        done = subprocess.run(command, input=stdin.encode(), capture_output=True, env=ascii_only, timeout=60)
        return done.returncode, (done.stdout + done.stderr).decode("ascii")

    service.deploy = [event(1, final=group("Running"))]
    code, told = corral("deploy", "-", stdin='{"name": "组-ünï"}')
    request = service.requests[-1]
    assert isinstance(request, deploy_pb2.DeployDistributedModelServiceRequest)
    assert (code, request.name) == (errors.OK, "组-ünï"), told
    code, told = corral("group", "组-ünï")
    assert "there is no group '?-?n?'" in told, (code, told)
    code, told = corral("group", b"\xff")
    assert (code, "an argument is not UTF-8: b'\\xff'" in told) == (errors.USAGE, True), told
