"""The `corral` command against a service of a few scripted answers: what it sends, shows and exits with."""

from __future__ import annotations

import io
import json
from pathlib import Path

import grpc
import pytest
from corral.v1 import deploy_pb2, group_pb2, placement_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from service.cli import errors, view
from service.cli.explanation import explain, size_text
from service.cli.main import main
from service.cli.output import Output
from service.client import follow
from tests.service.cli.scripted import EVENTS, GROUP, Service, event, failure, group


def test_the_documented_body_is_sent_field_by_field_with_its_tags(
    service: Service, address: str, request_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--server", address, "deploy", "-f", request_file]) == errors.OK
    (sent,) = service.requests
    assert isinstance(sent, deploy_pb2.DeployDistributedModelServiceRequest)
    node = sent.model_services[0]
    assert (node.cpu_num, node.memory_size, node.uuid) == (8, 17179869184, "f1e135835fee363c9f57ed8232023886")
    assert (sent.name, sent.service_creation_strategy) == ("distributed-model-service", "parallel")
    assert list(sent.system_tags) == ["a::b"]


def test_without_a_terminal_each_change_is_one_plain_line(
    address: str, request_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--server", address, "deploy", "-f", request_file]) == errors.OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(EVENTS)
    assert "accepted  my [group]" in lines[0]
    assert "1 member(s) on 1 host(s), proven optimal by greedy" in lines[1]
    assert "0 node-0: Booting on hv1" in lines[3]
    assert lines[-1].endswith("final     my [group]: Running")


def test_json_is_one_object_a_line_with_the_contracts_names(
    address: str, request_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--server", address, "deploy", "--json", "-f", request_file])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [
        next(key for key in one if key in ("accepted", "final", "planned", "claimed", "instance")) for one in told
    ] == [
        "accepted",
        "planned",
        "claimed",
        "instance",
        "final",
    ]
    assert told[0]["accepted"]["instances"][0]["memorySize"] == "17179869184"


def test_on_a_terminal_the_table_shows_every_member_and_names_are_no_markup() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    with view.choose_view(Output(), screen) as shown:
        for each in EVENTS:
            shown.show(each)
    text = screen.getvalue()
    assert "my [group]" in text
    assert "node-0" in text
    assert "hv1" in text
    assert "proven optimal" in text


def test_a_group_that_failed_exits_1(service: Service, address: str, request_file: str) -> None:
    service.deploy = [*EVENTS[:4], event(5, final=group("Failed", "no answer in time"))]
    assert main(["--server", address, "deploy", "-f", request_file]) == errors.FAILED


@pytest.mark.parametrize(
    ("code", "details", "exits", "says"),
    [
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            [
                error_details_pb2.ErrorInfo(reason="INVALID_ARGUMENT", domain="corral"),
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field="model_services[0].cpu_num", description="1 to 4096"
                        )
                    ]
                ),
            ],
            errors.USAGE,
            "model_services[0].cpu_num: 1 to 4096",
        ),
        (
            grpc.StatusCode.FAILED_PRECONDITION,
            [
                error_details_pb2.ErrorInfo(reason="UNSATISFIABLE"),
                placement_pb2.PlacementFailure(requested=3, placeable=1, permanent=True),
            ],
            errors.NOT_PLACED,
            "1 of the 3 members can be placed together",
        ),
        (
            grpc.StatusCode.FAILED_PRECONDITION,
            [error_details_pb2.ErrorInfo(reason="DEPLOY_FAILED")],
            errors.FAILED,
            "reason: DEPLOY_FAILED",
        ),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            [error_details_pb2.ErrorInfo(reason="NO_CAPACITY")],
            errors.NOT_PLACED,
            "NO_CAPACITY",
        ),
        (grpc.StatusCode.ALREADY_EXISTS, [], errors.CONFLICT, "ALREADY_EXISTS: message"),
        (grpc.StatusCode.PERMISSION_DENIED, [], errors.DENIED, "PERMISSION_DENIED: message"),
        (
            grpc.StatusCode.INTERNAL,
            [error_details_pb2.RequestInfo(request_id="r-17")],
            errors.INTERNAL,
            "request id for the operator: r-17",
        ),
    ],
)
def test_an_error_is_shown_with_its_details_and_decides_the_exit_code(
    service: Service,
    address: str,
    request_file: str,
    capsys: pytest.CaptureFixture[str],
    code: grpc.StatusCode,
    details: list[Message],
    exits: int,
    says: str,
) -> None:
    service.deploy = [failure(code, "message", *details)]
    assert main(["--server", address, "deploy", "-f", request_file]) == exits
    assert says in capsys.readouterr().err


def test_every_status_code_that_is_an_error_has_an_exit_code_of_its_own() -> None:
    assert set(errors.EXIT_CODES) == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    assert errors.OK not in errors.EXIT_CODES.values()


def test_a_lost_connection_is_taken_up_by_a_watch_from_the_last_revision(
    service: Service,
    address: str,
    request_file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(follow, "PAUSE_SECONDS", 0)
    service.deploy = [*EVENTS[:3], failure(grpc.StatusCode.UNAVAILABLE, "going away")]
    service.watch = [event(3, bookmark=group_pb2.Bookmark()), *EVENTS[3:]]
    assert main(["--server", address, "deploy", "-f", request_file]) == errors.OK
    watched = service.requests[1]
    assert isinstance(watched, deploy_pb2.WatchInstanceGroupsRequest)
    assert (watched.uuid, watched.start_revision) == (GROUP, 3)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == len(EVENTS)
    assert "connection lost" in captured.err


def test_a_service_that_is_not_there_exits_5_and_names_the_address(
    request_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--server", "unix:/nonexistent/corral.sock", "deploy", "-f", request_file]) == errors.UNAVAILABLE
    told = capsys.readouterr().err
    assert "unix:/nonexistent/corral.sock" in told
    assert "may have begun" not in told


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "a request is a JSON object"),
        ('{"nmae": "x"}', "nmae"),
        ('{"deployDistributedModelService": {}, "tags": []}', "unknown key beside deployDistributedModelService: tags"),
        ('{"modelServices": [{"cpuNum": "many"}]}', "cpuNum"),
    ],
)
def test_a_file_that_is_no_request_exits_2_before_any_call(
    service: Service, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, says: str
) -> None:
    file = tmp_path / "bad.json"
    file.write_text(content)
    assert main(["--server", address, "deploy", "-f", str(file)]) == errors.USAGE
    assert says in capsys.readouterr().err
    assert service.requests == []


def test_a_plan_tells_each_members_host(address: str, request_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server", address, "plan", "-f", request_file]) == errors.OK
    assert "0 node-0 -> hv1 (8 vcpu, 16 GiB memory)" in capsys.readouterr().out


@pytest.mark.parametrize("ranks", [[], ["0"]])
def test_a_plan_shows_the_documents_of_the_ranks_that_are_asked_for(
    address: str, service: Service, request_file: str, capsys: pytest.CaptureFixture[str], ranks: list[str]
) -> None:
    assert main(["--server", address, "plan", "-f", request_file, "--documents", *ranks]) == errors.OK
    assert list(planned(service).document_ranks) == [0]
    assert "--- 0 node-0: env\nNODE_RANK=0\n" in capsys.readouterr().out


def test_a_list_reads_all_pages(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server", address, "list"]) == errors.OK
    out = capsys.readouterr().out
    assert "Running" in out
    assert "Failed" in out
    assert main(["--server", address, "list", "--quiet"]) == errors.OK
    assert capsys.readouterr().out == f"{GROUP}\n{GROUP}\n"


def test_get_shows_a_group_and_names_a_missing_one(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server", address, "get", GROUP]) == errors.OK
    assert "my [group]: Running" in capsys.readouterr().out
    assert main(["--server", address, "get", "ff" * 16]) == errors.NOT_FOUND
    assert "instance group " + "ff" * 16 in capsys.readouterr().err


def test_delete_goes_on_after_a_failure_and_keeps_its_exit_code(
    service: Service, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service.delete = [failure(grpc.StatusCode.NOT_FOUND, "no such group")]
    assert main(["--server", address, "delete", "aa" * 16, GROUP]) == errors.NOT_FOUND
    assert len(service.requests) == 2
    service.delete = [event(9, final=group("Deleted"))]
    assert main(["--server", address, "delete", GROUP]) == errors.OK


def test_a_watch_of_all_groups_prints_lines_and_leaves_bookmarks_out(
    service: Service, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service.watch = [*EVENTS, event(6, bookmark=group_pb2.Bookmark())]
    assert main(["--server", address, "watch", "--from", "3"]) == errors.OK
    assert len(capsys.readouterr().out.splitlines()) == len(EVENTS)
    watched = service.requests[0]
    assert isinstance(watched, deploy_pb2.WatchInstanceGroupsRequest)
    assert watched.start_revision == 3


def test_the_explanation_tells_the_funnel_the_nearest_miss_and_the_cures() -> None:
    failed = placement_pb2.PlacementFailure(
        funnels=[
            placement_pb2.HostFunnel(
                field="model_services[0]",
                members=4,
                hosts=3,
                candidates=0,
                ruled_out=[
                    placement_pb2.RuledOut(reason="zone", hosts=1),
                    placement_pb2.RuledOut(reason="resource_free", resource="memory", hosts=2),
                ],
            )
        ],
        nearest_miss=placement_pb2.NearestMiss(
            host_uuid="1" * 32, host_name="h1", field="model_services[0]", missing={"memory": 3 << 29}
        ),
        requested=4,
        placeable_bound=2,
        conflicts=["zone", "capacity"],
        cures=[
            placement_pb2.Cure(kind="shrink", count=2),
            placement_pb2.Cure(kind="add_hosts", count=1),
            placement_pb2.Cure(kind="free", host_uuid="2" * 32, host_name="h2", amounts={"gpu.h100": 1}),
        ],
    )
    assert explain(failed) == [
        "  model_services[0] (4 member(s)): 0 of 3 host(s) could hold one",
        "    1 ruled out: in another zone",
        "    2 ruled out: too little free now (memory)",
        "  host h1 lacks 1.5 GiB memory for model_services[0]",
        "  at most 2 of the 4 members can be placed together",
        "  these cannot hold together: zone, capacity",
        "  it would fit: with 2 instead of 4 members",
        "  it would fit: with 1 more host(s) like the largest",
        "  it would fit: with 1 gpu.h100 free on host h2",
    ]


def test_sizes_are_told_in_the_largest_unit_that_holds_them() -> None:
    assert [size_text(n) for n in (17179869184, 3 << 29, 512 << 20, 1000)] == ["16 GiB", "1.5 GiB", "512 MiB", "1000 B"]


def test_options_of_placement_stand_over_what_the_file_says(
    address: str, service: Service, tmp_path: Path, request_file: str
) -> None:
    body = json.loads(Path(request_file).read_text())
    body["deployDistributedModelService"]["placementPolicy"] = {
        "maxPerHost": 2,
        "sameRack": True,
        "affinityGroupUuids": [GROUP],
    }
    file = tmp_path / "with_policy.json"
    file.write_text(json.dumps(body))
    told = "--max-per-host 1 --min-racks 2 --strategy close --host-label disk=ssd,nvme --prefer-host-label net=rdma:7"
    told += " --near n --prefer-apart a:3 --apart b --same-zone --numa required --survive-rack 2"
    assert main(["--server", address, "plan", str(file), *told.split()]) == errors.OK
    assert planned(service).placement_policy == group_pb2.PlacementPolicy(
        strategy=placement_pb2.PLACEMENT_STRATEGY_CLOSE,
        max_per_host=1,
        min_racks=2,
        same_rack=True,
        same_zone=True,
        numa=placement_pb2.NUMA_POLICY_REQUIRED,
        survive=group_pb2.Survive(racks=1, members=2),
        affinity_group_uuids=[GROUP, "n"],
        anti_affinity_group_uuids=["b"],
        required_host_labels=[group_pb2.HostLabel(key="disk", values=["ssd", "nvme"])],
        preferred_host_labels=[group_pb2.PreferredHostLabel(key="net", values=["rdma"], weight=7)],
        preferred_anti_affinity_groups=[group_pb2.PreferredGroup(group_uuid="a", weight=3)],
    )
    assert main(["--server", address, "plan", "-f", request_file]) == errors.OK
    assert not planned(service).HasField("placement_policy")


def planned(service: Service) -> deploy_pb2.PlanDistributedModelServiceRequest:
    """The plan that was asked for last."""
    asked = service.requests[-1]
    assert isinstance(asked, deploy_pb2.PlanDistributedModelServiceRequest)
    return asked
