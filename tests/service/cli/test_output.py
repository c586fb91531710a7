"""What `--output` prints, what Ctrl-C says, what shells complete, and how a request is told by options alone."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import click
import pytest
import yaml
from corral.v1 import deploy_pb2, group_pb2, placement_pb2

from service.cli import errors, view
from service.cli.main import corral, main
from service.cli.output import Output, plain_console, print_table
from tests.service.cli.scripted import EVENTS, GROUP, Service
from tests.support import ROOT
from tests.support.process import ENVIRONMENT


def test_groups_are_told_as_a_table_json_yaml_and_names(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = {}
    for kind in ("table", "json", "yaml", "name"):
        assert main(["--server", address, "groups", "--output", kind]) == errors.OK
        told[kind] = capsys.readouterr().out
    assert told["table"].splitlines()[0].split()[:4] == ["uuid", "project", "name", "status"]
    assert "2 group(s), 1 running" in told["table"]
    as_json = [json.loads(line) for line in told["json"].splitlines()]
    assert list(yaml.safe_load_all(told["yaml"])) == as_json
    assert [one["uuid"] for one in as_json] == told["name"].split() == [GROUP, GROUP]


def test_a_deploy_is_told_as_names_or_yaml(address: str, request_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server", address, "deploy", request_file, "--output", "name"]) == errors.OK
    assert capsys.readouterr().out == f"{GROUP}\n"
    assert main(["--server", address, "deploy", request_file, "--output", "yaml"]) == errors.OK
    assert len(list(yaml.safe_load_all(capsys.readouterr().out))) == len(EVENTS)


def test_ctrl_c_leaves_and_says_how_to_see_the_rest(
    service: Service,
    address: str,
    request_file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(view.LineView, "show", interrupted)
    assert main(["--server", address, "deploy", request_file]) == errors.INTERRUPTED
    assert f"goes on. See the rest with: corral watch {GROUP} --from 1" in capsys.readouterr().err


def test_the_time_on_a_terminal_goes_on_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = view.TableView(Terminal())
    shown._progress.take(EVENTS[0])
    shown._heard = now[0]
    now[0] += 7.5
    screen = Terminal()
    plain_console(screen).print(shown._render())
    assert "  7.5 s" in screen.getvalue()


def test_a_request_is_told_by_options_alone(
    service: Service, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service.cli.flags._service", lambda session, wanted: f"uuid of {wanted}")
    monkeypatch.setattr("service.cli.flags._image", lambda session, wanted: f"image {wanted}")
    told = (
        "--name chat --model-service llama --members 3 --cpu 4 --memory 16GiB --numa-cells 2 --dedicated-cpus "
        "--huge-pages 2MiB --gpu a100=2 --env A=b=c --data-disk 2GiB --data-disk weights --data-disk 16=1GiB"
    )
    assert main(["--server", address, "plan", *told.split()]) == errors.OK
    (sent,) = service.requests
    assert isinstance(sent, deploy_pb2.PlanDistributedModelServiceRequest)
    (node,) = sent.model_services
    assert (sent.name, sent.service_creation_strategy) == ("chat", "parallel")
    assert (node.uuid, node.count, node.cpu_num, node.memory_size) == ("uuid of llama", 3, 4, 16 << 30)
    assert ([(g.model, g.count) for g in node.gpus], dict(node.environment_variables)) == ([("a100", 2)], {"A": "b=c"})
    assert (node.numa_cells, node.dedicated_cpus, node.huge_pages) == (2, True, "2MiB")
    disks = [(disk.image_uuid, disk.size) for disk in node.data_disks]
    assert disks == [("", 2 << 30), ("image weights", 0), ("image 16", 1 << 30)]
    assert not node.isolate_emulator_threads
    (gpu,) = node.gpus
    assert (gpu.numa_policy, gpu.same_partition) == (placement_pb2.NUMA_POLICY_UNSPECIFIED, False)
    assert main(["--server", address, "plan", "request.json", "--cpu", "4"]) == errors.USAGE
    assert "--cpu stand for a request's file" in capsys.readouterr().err


def test_options_say_where_on_its_host_a_members_gpus_are(
    service: Service, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service.cli.flags._service", lambda session, wanted: f"uuid of {wanted}")
    member = ["--server", address, "plan", "--name", "chat", "--gpu-numa", "required", "--gpu-same-partition"]
    assert main([*member, "--gpu", "a100=2", "--gpu", "h100=1"]) == errors.OK
    (sent,) = service.requests
    assert isinstance(sent, deploy_pb2.PlanDistributedModelServiceRequest)
    assert [(g.model, g.count, g.numa_policy, g.same_partition) for g in sent.model_services[0].gpus] == [
        ("a100", 2, placement_pb2.NUMA_POLICY_REQUIRED, True),
        ("h100", 1, placement_pb2.NUMA_POLICY_REQUIRED, True),
    ]
    assert main(member) == errors.USAGE
    assert "say where the GPUs of --gpu are" in capsys.readouterr().err
    options = ["--gpu", "a100=1", "--gpu-same-partition"]
    assert main(["--server", address, "plan", "request.json", *options]) == errors.USAGE
    assert "--gpu, --gpu-same-partition stand for a request's file" in capsys.readouterr().err


def test_a_wrong_command_line_is_told_without_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    member = ["--server", "unix:/nonexistent/corral.sock", "plan", "--name", "chat", "--gpu-numa", "required"]
    assert main(member) == errors.USAGE
    assert "say where the GPUs of --gpu are" in capsys.readouterr().err


def leaves(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every sub-command that is run, with its words."""
    verbs = command.commands.items() if isinstance(command, click.Group) else ()
    for name, one in verbs:
        yield from leaves(one, *path, name)
    if path and (not verbs or command.params):
        yield " ".join(path), command


def test_every_verb_that_tells_something_has_output() -> None:
    without = {name for name, one in leaves(corral) if not any("--output" in option.opts for option in one.params)}
    # They keep a context, print a shell's or the service's own file, or hand their options on.
    assert without == {
        "completion",
        "config check",
        "config print",
        "context remove",
        "context set",
        "context use",
        "recover",
    }


def test_health_and_version_are_told_to_programs_too(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service.cli.about._SECONDS", 0.2)
    both = f"{address},unix:/nonexistent/corral.sock"
    assert main(["--server", both, "health", "--output", "json"]) == errors.UNAVAILABLE, "nobody here has health"
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["address"], one["serving"]) for one in told] == [(part, False) for part in both.split(",")]
    assert told[1]["problem"].startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED"))
    main(["--server", both, "health", "--output", "name"])
    assert capsys.readouterr().out.split() == both.split(",")
    main(["--server", address, "version", "--output", "yaml"])
    (version,) = yaml.safe_load_all(capsys.readouterr().out)
    assert [one["address"] for one in version["servers"]] == [address]
    main(["--server", address, "version"])
    assert capsys.readouterr().out.splitlines()[0] == f"corral {version['version']}"


def completed(shell: str, *words: str) -> Iterator[str]:
    """What a shell's completion is offered for the last word."""
    variables = {
        "_CORRAL_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    if shell == "fish":
        variables["COMP_CWORD"] = words[-1]
    done = subprocess.run(
        [sys.executable, "-m", "service.cli"],
        env={**os.environ, **ENVIRONMENT, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr, done.stderr
    return (line.replace("plain,", "") for line in done.stdout.splitlines())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_sub_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == errors.OK
    script = capsys.readouterr().out
    assert f"_CORRAL_COMPLETE={shell}_complete" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=30)
        assert {"group", "groups"} <= set(completed(shell, "corral", "gro"))
        assert "--output" in set(completed(shell, "corral", "groups", "--ou"))


def test_letters_of_bars_are_plain_where_the_terminal_has_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from corral.v1 import fleet_pb2

    from service.cli.bars import bar

    of = fleet_pb2.ResourceCapacity(resource="vcpu", allocatable=8, claimed=4, foreign=2, available=2)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert (bar(of, width=8), bar(of, useless=True, width=8)) == ("####%%..", "####%%--")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert bar(of, width=8) == "████▓▓··"


def test_what_is_used_is_told_where_it_is_measured() -> None:
    from corral.v1 import fleet_pb2

    from service.cli.bars import capacity_line, totals

    def memory(used: float | None) -> fleet_pb2.ResourceCapacity:
        return fleet_pb2.ResourceCapacity(resource="memory", allocatable=8 << 30, claimed=4 << 30, used=used)

    assert "4 GiB memory of 8 GiB memory claimed, 1.5 GiB memory used now, " in capacity_line(memory(1.5 * (1 << 30)))
    assert "used now" not in capacity_line(memory(None))
    assert "3.4 vcpu used now" in capacity_line(fleet_pb2.ResourceCapacity(resource="vcpu", claimed=4, used=3.41))
    hosts = [fleet_pb2.Host(state="Enabled", status="Connected", capacities=[memory(u)]) for u in (1.0, None, 2.0)]
    (of,) = totals(hosts)
    assert of.used == 3.0
    (of,) = totals(hosts[1:2])
    assert not of.HasField("used")


def test_every_exit_code_is_told_by_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == errors.OK
    told = capsys.readouterr().out
    codes = {*errors.EXIT_CODES.values(), *errors.REASON_EXIT_CODES.values(), errors.OK, errors.INTERRUPTED}
    assert codes == set(errors.EXIT_CODES_TOLD)
    for code, text in errors.EXIT_CODES_TOLD.items():
        assert f"  {code} " in told
        assert text.split(";")[0][:40] in told


def test_kinds_of_output_are_refused_by_name(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--server", address, "groups", "--output", "xml"]) == errors.USAGE
    assert "'table', 'json', 'yaml', 'name'" in capsys.readouterr().err
    assert Output().for_people


def test_the_guides_table_of_exit_codes_is_the_helps() -> None:
    guide = (ROOT / "deploy/README.md").read_text()
    for code, text in errors.EXIT_CODES_TOLD.items():
        assert f"| {code} | {text} |" in guide


@pytest.mark.parametrize("columns", [200, 100, 60, 40])
def test_a_terminal_of_any_width_shows_whole_names(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    row = ["host-number-10", "zone-1", "Enabled", "Connected", "", "ab" * 16, "a long reason that goes over many lines"]
    print_table(("name", "zone", "state", "status", "devices free", "uuid", "reason"), [row])
    lines = re.sub("\x1b[^m]*m", "", screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= columns
    assert "devices" not in lines[0]
    shown = "".join(line[:14].strip() for line in lines[1:])
    assert shown == "host-number-10" if columns > 60 else shown.startswith("host-number-")
    assert "…" not in screen.getvalue()


def test_a_member_is_told_with_the_cells_that_it_is_pinned_to() -> None:
    member = group_pb2.Instance(node_rank=1, name="chat-1", status="Running", host_name="hv1", numa_cells=[0, 1])
    assert view.describe_member(member) == "1 chat-1: Running on hv1 NUMA cell 0, 1"
    del member.numa_cells[:]
    assert view.describe_member(member) == "1 chat-1: Running on hv1"


def test_a_plan_tells_the_cells_of_each_member(
    address: str, request_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pinned = type(EVENTS[1])()
    pinned.CopyFrom(EVENTS[1])
    pinned.planned.assignments[0].numa_cells.extend([0, 3])
    monkeypatch.setattr("tests.service.cli.scripted.EVENTS", [EVENTS[0], pinned, *EVENTS[2:]])
    assert main(["--server", address, "plan", request_file]) == errors.OK
    assert "hv1 NUMA cell 0, 3 (8 vcpu" in capsys.readouterr().out
