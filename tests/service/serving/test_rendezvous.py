"""The documents of a member: what Corral plans wins over what a caller gives, and secrets stand in them alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from service.domain.catalog import Image
from service.domain.environment import PLANNED, NoSecrets, SecretUnavailable, is_planned
from service.domain.ownership import Installation
from service.domain.specs import CreationStrategy, GpuRequest
from service.reconcile.machine_spec import machine_spec
from service.serving.rendezvous import env_file, rendezvous
from tests.support.builders import entry, group, host, zone


class Known:
    """One secret, of every project."""

    def known(self, name: str, project: str | None) -> bool:
        return name == "token"

    def value(self, name: str, project: str) -> str:
        return "the-secret"


def lines(given: dict[str, str], secrets: object = None, **changes: object) -> dict[str, str]:
    """The env file of the first member, as a guest reads it: the last line of a name counts."""
    made = group(2)
    member = replace(made.instances[0], address="10.9.0.10", host_uuid=host(1).uuid)
    member = replace(member, spec=replace(member.spec, environment_variables=given))
    made = replace(made, instances=(member, *made.instances[1:]))
    catalogue = {entry().uuid: replace(entry(), **changes)}  # type: ignore[arg-type]
    zones = {zone().uuid: zone()}
    document = rendezvous(made, member, host(1), zones, catalogue, secrets or NoSecrets())  # type: ignore[arg-type]
    text = env_file(document, member)
    return dict(line.split("=", 1) for line in text.splitlines())


def test_what_is_written_beside_a_callers_variables_is_what_counts_as_planned() -> None:
    plain = lines({})
    assert {name for name in plain if not is_planned(name)} == set()
    of_guest = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"}
    assert PLANNED - set(plain) == of_guest, "its interface's name is the guest's to tell"


@pytest.mark.parametrize("value", ["10.6.6.6/24", ""])
def test_what_is_planned_cannot_be_overridden_even_by_a_group_that_was_admitted_long_ago(value: str) -> None:
    planned = lines({})
    given = dict.fromkeys([*planned, "CORRAL_NODE_GATEWAY", "CORRAL_ANY"], value)
    assert lines(given) == planned
    assert lines({}, environment=given) == planned


def test_what_a_node_and_its_entry_say_reaches_the_guest() -> None:
    made = group(2, creation_strategy=CreationStrategy.SEQUENTIAL, workers_first=True)
    member = made.instances[1]
    spec = replace(member.spec, startup_parameters="--fast", tensor_parallel_size=4, gpus=(GpuRequest("a100", 2),))
    made = replace(made, instances=(made.instances[0], replace(member, spec=spec)))
    given = entry(
        framework="sglang",
        model_uuid="d" * 32,
        initial_command="serve",
        ports={"service": 9000, "rpc": 7},
        health_path="/ready",
        readiness_port=9001,
        readiness_interval_ms=70,
        readiness_timeout_ms=80,
    )
    leader, document = (
        rendezvous(made, m, host(1), {zone().uuid: zone()}, {given.uuid: given}, NoSecrets()) for m in made.instances
    )
    times = {"interval_ms": 70, "timeout_ms": 80}
    assert leader["readiness"] == {"kind": "http", "path": "/ready", "port": 9001, **times}
    assert document["readiness"] == {"kind": "process", "path": "", "port": 0, **times}
    assert document["ports"] == {
        "service": 9000, "rpc": 7, "rendezvous": 20000, "ranges": {"rendezvous": [20000, 20006]},
    }  # fmt: skip
    assert document["node"]["gpus"] == [{"model": "a100", "count": 2}]
    assert document["start"] == {
        "order": "sequential", "gate": "none", "gate_port": 0, "listen_port": 0, "supervisor_port": 7431,
        "deadline_ms": member.boot_timeout_ms,
    }  # fmt: skip
    engine = {name: document["engine"][name] for name in ("preset", "command", "args", "model", "tensor_parallel_size")}
    assert engine == {
        "preset": "sglang", "command": "serve --fast", "args": "--fast", "model": "d" * 32, "tensor_parallel_size": 4,
    }  # fmt: skip
    own = replace(made.instances[1], spec=replace(spec, model_uuid="e" * 32))
    document = rendezvous(made, own, host(1), {zone().uuid: zone()}, {given.uuid: given}, NoSecrets())
    assert document["engine"]["model"] == "e" * 32


def test_what_is_looked_at_for_readiness_reaches_the_guest() -> None:
    def told(rank: int, **fields: str) -> tuple[dict[str, object], str]:
        given = entry(**{"framework": "custom", **fields})
        made = group(2)
        member = made.instances[rank]
        document = rendezvous(made, member, host(1), {zone().uuid: zone()}, {given.uuid: given}, NoSecrets())
        return document["readiness"], env_file(document, member)

    readiness, lines = told(0, readiness_kind="command", readiness_command="test -e /run/up")
    assert (readiness["kind"], readiness["path"], readiness["command"]) == ("command", "", "test -e /run/up")
    assert "CORRAL_READINESS=command\nCORRAL_READINESS_PORT=8080\nCORRAL_READINESS_COMMAND=test -e /run/up\n" in lines
    for kind in ("listening", "process"):
        readiness, lines = told(0, readiness_kind=kind)
        assert (readiness["kind"], "command" in readiness) == (kind, False)
        assert "CORRAL_READINESS_COMMAND" not in lines
    assert told(1, framework="vllm-ray", readiness_kind="listening")[0]["kind"] == "process", "nobody calls it"


def test_a_worker_without_a_command_of_its_own_runs_the_initial_nodes() -> None:
    made = group(2)
    zones, catalogue = {zone().uuid: zone()}, {entry().uuid: replace(entry(), initial_command="serve")}

    def commands() -> list[str]:
        documents = [rendezvous(made, m, host(1), zones, catalogue, NoSecrets()) for m in made.instances]
        return [document["engine"]["command"] for document in documents]

    assert commands() == ["serve", "serve"]
    catalogue[entry().uuid] = replace(catalogue[entry().uuid], worker_command="join")
    assert commands() == ["serve", "join"]


def test_a_value_of_several_lines_becomes_no_variable_of_its_own() -> None:
    found = lines({"A": "x\nCORRAL_NODE_ADDRESS=10.6.6.6/24\nCORRAL_ENGINE_COMMAND=evil", "B": "fine"})
    assert found["CORRAL_NODE_ADDRESS"].startswith("10.9.0.10/")
    assert "CORRAL_ENGINE_COMMAND" not in found
    assert found["B"] == "fine"


def test_a_secret_is_resolved_in_the_documents_alone() -> None:
    assert lines({"HF_TOKEN": "secret://token"}, Known())["HF_TOKEN"] == "the-secret"
    assert lines({}, Known(), environment={"HF_TOKEN": "secret://token"})["HF_TOKEN"] == "the-secret"
    with pytest.raises(SecretUnavailable):
        lines({"HF_TOKEN": "secret://token"})


def test_a_machines_specification_is_the_same_whatever_the_secret_is() -> None:
    made = group(1)
    member = replace(made.instances[0], host_uuid=host(1).uuid)
    member = replace(member, spec=replace(member.spec, environment_variables={"HF_TOKEN": "secret://token"}))
    found = machine_spec(
        Installation("d" * 32, "c"),
        replace(made, instances=(member,)),
        member,
        host=host(1),
        zones={zone().uuid: zone()},
        catalogue={entry().uuid: entry()},
        secrets=Known(),
    )
    assert json.loads(found.documents["rendezvous"])["engine"]["env"] == {"HF_TOKEN": "the-secret"}
    assert "the-secret" not in repr(found)
    assert "supervisor" not in found.documents, "the default guest has its own"


def test_a_cloud_image_is_given_the_supervisor() -> None:
    made = group(1)
    member = replace(made.instances[0], host_uuid=host(1).uuid)
    own = entry(image=Image("disk", disk_path="/disk", delivery="nocloud"))
    found = machine_spec(
        Installation("d" * 32, "c"),
        replace(made, instances=(member,)),
        member,
        host=host(1),
        zones={zone().uuid: zone()},
        catalogue={own.uuid: own},
        secrets=NoSecrets(),
    )
    assert found.documents["supervisor"].startswith("#!/bin/sh\n")
