"""Start commands: what the catalogue says comes first, a caller's words are never a shell's, ports are told apart."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.catalog import Image
from service.domain.containers import Container
from service.domain.groups import Group
from service.domain.presets import PRESETS, Gate, port_problems, ports_of
from service.serving.engine import command, gate, listen_port
from tests.support.builders import entry, group


def placed(size: int, *, parameters: str = "") -> Group:
    made = group(size)
    return replace(
        made,
        instances=tuple(
            replace(m, address=f"10.9.0.{10 + m.rank}", spec=replace(m.spec, startup_parameters=parameters))
            for m in made.instances
        ),
    )


def commands(made: Group, **changes: object) -> list[str]:
    own = entry(**changes)
    return [command(made, m, {one.uuid: own for one in made.instances}) for m in made.instances]


def test_a_command_of_the_catalogue_comes_before_the_presets() -> None:
    made = placed(2)
    assert commands(made, framework="llamacpp-rpc", worker_command="mine")[1] == "mine"
    assert commands(made, framework="llamacpp-rpc", initial_command="mine") == ["mine", "mine"]
    assert "ggml-rpc-server" in commands(made, framework="llamacpp-rpc")[1]
    assert commands(made) == ["", ""], "the image starts by itself"


WORDS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), max_size=8), max_size=4)


@given(WORDS)
def test_a_callers_words_arrive_as_they_are_whatever_a_shell_would_make_of_them(words: list[str]) -> None:
    (line,) = commands(placed(1, parameters=shlex.join(words)), initial_command="serve")
    assert shlex.split(line) == ["serve", *words]


def test_no_word_of_a_caller_is_run() -> None:
    words = "'$(echo run)' '`id`' ';' exit '>' /dev/full"
    (line,) = commands(placed(1, parameters=words), initial_command="printf '%s|'")
    ran = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True)
    assert ran.stdout == "$(echo run)|`id`|;|exit|>|/dev/full|"


def test_what_nobody_knows_is_left_to_the_engine() -> None:
    leader, worker = commands(placed(2), framework="vllm")
    assert "parallel-size" not in leader + worker
    sized = placed(2)
    sized = replace(
        sized, instances=tuple(replace(m, spec=replace(m.spec, tensor_parallel_size=8)) for m in sized.instances)
    )
    assert all("--tensor-parallel-size 8" in line for line in commands(sized, framework="vllm"))
    assert "--rpc" not in commands(placed(1), framework="llamacpp-rpc")[0]


def test_each_member_waits_for_whom_its_engine_needs() -> None:
    leader, worker = placed(2).instances
    assert gate(leader, entry(framework="llamacpp-rpc")) == (Gate.WORKERS, 50052)
    assert gate(worker, entry(framework="llamacpp-rpc")) == (Gate.NONE, 0)
    assert gate(worker, entry(framework="vllm-ray", ports={"rendezvous": 7000})) == (Gate.LEADER, 7000)
    assert gate(leader, entry(framework="vllm-ray"))[0] is Gate.NONE
    assert gate(leader, entry(workers_first=True)) == (Gate.WORKERS, 8080)
    assert gate(leader, entry(framework="sglang", workers_first=True))[0] is Gate.NONE, "its workers listen nowhere"


def test_who_is_waited_for_tells_that_its_engine_listens() -> None:
    leader, worker = placed(2).instances
    for own in (entry(framework=name) for name in (*PRESETS, "custom")):
        for waiting, awaited in ((leader, worker), (worker, leader)):
            kind, port = gate(waiting, own)
            assert listen_port(awaited, own) == (port if kind is not Gate.NONE else 0)


@pytest.mark.parametrize(
    ("framework", "ports", "field"),
    [
        ("sglang", {"service": 20006}, "ports[service]"),
        ("sglang", {"service": 20007}, ""),
        ("sglang", {"rendezvous": 65530}, "ports[rendezvous]"),
        ("vllm-ray", {"service": 12000}, "ports[service]"),
        ("custom", {"service": 1, "rpc": 1}, "ports[service]"),
        ("custom", {"ranges": 1}, "ports[ranges]"),
    ],
)
def test_ports_that_meet_are_told(framework: str, ports: dict[str, int], field: str) -> None:
    wrong = [violation.field for violation in port_problems(framework, ports_of(framework, ports))]
    assert wrong == ([field] if field else [])


def test_a_custom_entry_has_the_ports_that_it_names_alone() -> None:
    assert ports_of("custom", {}) == {"service": 8080}
    assert ports_of("custom", {"rpc": 7}) == {"rpc": 7}
    assert ports_of("vllm", {"service": 1}) == {"service": 1, "rendezvous": 29501}
    assert all(ports_of(name, ports_of(name, {})) == ports_of(name, {}) for name in PRESETS)


def test_a_container_image_runs_its_own_words_where_nobody_names_a_command() -> None:
    made = Container("0" * 64, ("/opt/run", "a b"), ("--port", "1"))
    image = Image("engine", container=made)
    assert commands(placed(1), image=image) == ["/opt/run 'a b' --port 1"]
    assert commands(placed(1, parameters="-v 2"), image=image) == ["/opt/run 'a b' -v 2"], "as `docker run IMAGE -v 2`"
    assert commands(placed(1, parameters="-v"), image=image, initial_command="mine") == ["mine -v"]
    assert "vllm" in commands(placed(1), image=image, framework="vllm")[0]
