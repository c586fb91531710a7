"""The public contract: generated code is current, buf accepts the definitions, and ZStack's words are kept.

The documented request is the call in ZStack's documentation of DeployDistributedModelService, with its reply.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import generate
import pytest
from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2, group_pb2, limits_pb2, placement_pb2, project_pb2, secret_pb2
from google.api import annotations_pb2, field_behavior_pb2
from google.protobuf import descriptor, json_format

FILES = (deploy_pb2, group_pb2, placement_pb2, fleet_pb2, catalog_pb2, project_pb2, secret_pb2, limits_pb2)
SERVICES = [service for module in FILES for service in module.DESCRIPTOR.services_by_name.values()]
METHODS = [method for service in SERVICES for method in service.methods]

DOCUMENTED_REQUEST = """{"modelServices":[{"isInitialNode":false,"uuid":"f1e135835fee363c9f57ed8232023886",
"zoneUuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpuNum":8,"name":"model-service","type":"VirtualMachine",
"memorySize":17179869184,"timeout":0}],"serviceCreationStrategy":"parallel","name":"distributed-model-service"}"""

DOCUMENTED_REPLY_FIELDS = (
    *("uuid", "modelServiceUuid", "modelUuid", "instances", "datasetRefInventories", "status", "modelServiceType"),
    *("type", "name", "description", "yaml", "supportMetrics", "exportPath", "createDate", "lastOpDate"),
)


def _messages(container: descriptor.FileDescriptor) -> list[descriptor.Descriptor]:
    """The top-level messages of a file; the entries of maps lie below theirs."""
    return list(container.message_types_by_name.values())


MESSAGES = [message for module in FILES if module is not limits_pb2 for message in _messages(module.DESCRIPTOR)]
FIELDS = [field for message in MESSAGES for field in message.fields]


def test_the_generated_files_are_what_the_definitions_generate() -> None:
    assert generate.differences() == []


def test_a_changed_generated_file_is_noticed(tmp_path: Path) -> None:
    generate.generate(tmp_path)
    (tmp_path / "corral/v1/group_pb2.py").write_text("changed\n")
    (tmp_path / "corral/v1/left_over_pb2.py").write_text("\n")
    (tmp_path / "corral/v1/deploy_pb2.pyi").unlink()
    assert generate.differences(tmp_path) == [
        "corral/v1/deploy_pb2.pyi",
        "corral/v1/group_pb2.py",
        "corral/v1/left_over_pb2.py",
    ]


def test_buf_lint_accepts_the_definitions() -> None:
    assert generate.lint() == 0


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of all of protos/, to be changed."""
    copy = tmp_path / "protos"
    shutil.copytree(generate.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def change(protos: Path, pattern: str, replacement: str) -> None:
    definition = protos / "corral/v1/deploy.proto"
    changed, count = re.subn(pattern, replacement, definition.read_text(), count=1, flags=re.DOTALL)
    assert count == 1, pattern
    definition.write_text(changed)


def command(protos: Path, name: str) -> int:
    """The exit status of a command on that copy, as `make` runs it."""
    return subprocess.run([sys.executable, str(protos / "generate.py"), name], check=False).returncode


BREAKING = {
    "a field is removed": (r"  // The revision that this page.*?OUTPUT_ONLY\];\n", ""),
    "a field gets another number": (r"int64 revision = 3 ", "int64 revision = 33 "),
    "a field gets another type": (r"int64 revision = 3 ", "string revision = 3 "),
    "a method is removed": (r"  // [^\n]*\n  rpc GetInstanceGroup\(.*?\n  }\n", ""),
    "an answer streams no more": (
        r"rpc StopInstanceGroup\(StopInstanceGroupRequest\) returns \(stream ",
        "rpc StopInstanceGroup(StopInstanceGroupRequest) returns (",
    ),
}


@pytest.mark.parametrize("broken", BREAKING)
def test_what_breaks_the_last_release_is_refused(copied: Path, broken: str) -> None:
    change(copied, *BREAKING[broken])
    released = (copied / "released.binpb").read_bytes()
    assert command(copied, "release") != 0
    assert (copied / "released.binpb").read_bytes() == released


def test_lint_accepts_what_is_added_and_refuses_to_take_it_away_after_its_release(copied: Path) -> None:
    added = "  // Something new.\n  int64 novelty = 99 [(google.api.field_behavior) = OUTPUT_ONLY];\n}\n"
    place = r"(message ListInstanceGroupsResponse {.*?)}\n"
    change(copied, place, r"\1" + added)
    assert command(copied, "lint") == 0
    assert command(copied, "release") == 0
    change(copied, r"  // Something new\.\n[^\n]*\n", "")
    assert command(copied, "lint") != 0


def test_buf_lint_refuses_a_definition_without_a_comment(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    generate.stage(tmp_path, generate.ROOT)
    definition = tmp_path / "corral/v1/deploy.proto"
    definition.write_text(definition.read_text().replace("  // The group's UUID.\n", ""))
    result = subprocess.run([generate.tool("buf"), "lint"], cwd=tmp_path, check=False)
    assert result.returncode != 0
    assert "should have a non-empty comment" in capfd.readouterr().out


def test_generating_leaves_grpc_tools_out_of_this_process() -> None:
    program = "import sys, generate; generate.differences(); sys.exit('grpc_tools' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=generate.ROOT, check=True)


def test_every_method_of_the_api_is_declared() -> None:
    verbs = ("Get", "Update", "Rollout", "RollBack", "Scale", "Start", "Stop", "Restart", "Delete")
    group = {f"{verb}InstanceGroup" for verb in verbs}
    deploy = group | {"ListInstanceGroups", "ListInstanceGroupEvents", "ListInstances", "WatchInstanceGroups"}
    deploy |= {"DeployDistributedModelService", "PlanDistributedModelService", "GetInstanceLog"}
    host_verbs = ("Add", "Get", "Update", "Remove", "Enable", "Disable", "Maintain", "Drain", "Fence", "Claim")
    hosts = {f"{verb}Host" for verb in host_verbs}
    fleet = hosts | {
        "CreateZone",
        "ListZones",
        "UpdateZone",
        "DeleteZone",
        "CreateCluster",
        "ListClusters",
        "UpdateCluster",
        "DeleteCluster",
        "ListHosts",
        "GetCapacity",
        "PlanRoom",
        "PlanRebalance",
        "RebalanceHosts",
        "CallOffRebalance",
        "GetRebalance",
        "ListRebalances",
        "PlanRoll",
        "RollHosts",
        "CallOffRoll",
        "GetRoll",
        "ListRolls",
        "WatchFleet",
    }
    fleet |= {"ListDecisions", "DumpDecision", "ListQuarantine", "RemoveQuarantined", "AdoptQuarantined"}
    fleet |= {"QuarantineDevice", "ReleaseDevice", "CleanHost"}
    catalog = {f"{verb}ModelService" for verb in ("Create", "Get", "Update", "Delete")} | {"ListModelServices"}
    catalog |= {
        "RegisterImage",
        "UploadImage",
        "GetImageUpload",
        "ImportImage",
        "GetImage",
        "ListImages",
        "DeleteImage",
    }
    assert {s.name: {m.name for m in s.methods} for s in SERVICES} == {
        "DistributedModelService": deploy,
        "FleetService": fleet,
        "CatalogService": catalog,
        "ProjectService": {"GetUsage", "ListAuditEvents"},
        "SecretService": {"CreateSecret", "GetSecret", "ListSecrets", "RotateSecret", "DeleteSecret"},
    }


def test_exactly_the_calls_that_take_time_or_follow_changes_stream() -> None:
    streaming = {m.name for m in METHODS if m.server_streaming}
    verbs = ("Rollout", "RollBack", "Scale", "Start", "Stop", "Restart", "Delete")
    changes = {f"{verb}InstanceGroup" for verb in verbs}
    assert streaming == changes | {
        "DeployDistributedModelService",
        "WatchInstanceGroups",
        "DrainHost",
        "RebalanceHosts",
        "WatchFleet",
        "DumpDecision",
        "GetInstanceLog",
        "ImportImage",
    }
    assert {m.name for m in METHODS if m.client_streaming} == {"UploadImage"}


def test_every_method_has_its_own_http_binding() -> None:
    bindings = []
    for method in METHODS:
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")
        assert verb is not None, method.full_name
        path = getattr(rule, verb)
        bindings.append((verb, path))
        assert path.startswith("/corral/v1/"), method.full_name
        for variable in re.findall(r"{(\w+)}", path):
            assert variable in method.input_type.fields_by_name, method.full_name
    assert len(set(bindings)) == len(bindings)


def test_every_streaming_call_of_a_group_but_its_logs_answers_with_the_same_event() -> None:
    for method in METHODS:
        if method.name == "GetInstanceLog":
            continue
        if method.server_streaming and method.containing_service.name == "DistributedModelService":
            assert [f.name for f in method.output_type.fields] == ["event"], method.full_name
            assert method.output_type.fields[0].message_type is group_pb2.InstanceGroupEvent.DESCRIPTOR


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.full_name)
def test_every_field_says_how_it_behaves(field: descriptor.FieldDescriptor) -> None:
    assert list(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])


def _inputs() -> list[descriptor.FieldDescriptor]:
    """Every field that a caller can set, in requests and in the messages below them."""
    pending = [method.input_type for method in METHODS]
    seen: dict[str, descriptor.Descriptor] = {}
    while pending:
        message = pending.pop()
        if message.full_name not in seen and message.file.package == "corral.v1":
            seen[message.full_name] = message
            pending.extend(field.message_type for field in message.fields if field.message_type is not None)
    return [field for message in seen.values() for field in message.fields]


def test_every_string_list_and_map_that_a_caller_sends_is_bounded() -> None:
    unbounded = []
    for field in _inputs():
        limits = field.GetOptions().Extensions[limits_pb2.limits]
        fixed = limits.format in (limits_pb2.STRING_FORMAT_UUID, limits_pb2.STRING_FORMAT_SHA256) or limits.allowed
        if field.is_repeated and not limits.max_items:
            unbounded.append(f"{field.full_name}: items")
        if field.type == field.TYPE_STRING and not (limits.max_length or fixed):
            unbounded.append(f"{field.full_name}: length")
        if field.type in (field.TYPE_INT32, field.TYPE_INT64) and not limits.HasField("minimum"):
            unbounded.append(f"{field.full_name}: minimum")
    # Map entries carry their limits on the map field itself.
    assert [name for name in unbounded if "Entry." not in name] == []


def test_a_plan_takes_the_fields_of_a_deploy_and_which_documents_to_tell() -> None:
    def shape(message: descriptor.Descriptor) -> list[tuple[str, int, int, bytes]]:
        return [(f.name, f.number, f.type, f.GetOptions().SerializeToString()) for f in message.fields]

    deploy = deploy_pb2.DeployDistributedModelServiceRequest.DESCRIPTOR
    plan = deploy_pb2.PlanDistributedModelServiceRequest.DESCRIPTOR
    *same, documents = shape(plan)
    assert (same, documents[0]) == (shape(deploy), "document_ranks")


def test_the_documented_request_is_taken_word_for_word() -> None:
    request = json_format.Parse(DOCUMENTED_REQUEST, deploy_pb2.DeployDistributedModelServiceRequest())
    (node,) = request.model_services
    assert (node.cpu_num, node.memory_size, node.type) == (8, 17179869184, "VirtualMachine")
    assert node.zone_uuid == "7a007a391d483c9f843bf1df4b7e5d8f"
    assert request.service_creation_strategy == "parallel"


@pytest.mark.parametrize("name", DOCUMENTED_REPLY_FIELDS)
def test_the_inventory_has_the_documented_field(name: str) -> None:
    assert name in {field.json_name for field in group_pb2.InstanceGroup.DESCRIPTOR.fields}


def test_a_number_that_is_absent_differs_from_an_explicit_zero() -> None:
    assert not group_pb2.NodeSpec().HasField("cpu_num")
    assert group_pb2.NodeSpec(cpu_num=0).HasField("cpu_num")
    assert group_pb2.NodeSpec(memory_size=0).HasField("memory_size")
