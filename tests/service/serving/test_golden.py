"""What every member of a group of each preset is told, word for word: a change shows in the golden files.

`python -m tests.service.serving.test_golden` writes them anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from service.domain.catalog import Image
from service.domain.environment import NoSecrets
from service.domain.groups import Group
from service.domain.network import mac_address
from service.domain.presets import PRESETS, port_problems, ports_of
from service.domain.specs import GpuRequest
from service.serving.rendezvous import rendezvous, texts
from tests.support.builders import entry, group, host, zone

GOLDEN = Path(__file__).with_name("golden")
ARGUMENTS = {
    "custom": "--name 'two words'",
    "llamacpp-rpc": "-m /model.gguf -c 256",
    "mpi": "/usr/bin/engine --model /model",
    "sglang": "--model-path org/model",
    "torchrun": "/serve.py --model /model",
    "vllm": "org/model --max-model-len 4096",
    "vllm-ray": "org/model",
}


def made(framework: str) -> Group:
    """Three placed members of four accelerators each; the model's arguments are those of the members that take any."""
    plain = group(3, uuid="a" * 32)
    helper = framework in ("llamacpp-rpc", "mpi", "vllm-ray")
    return replace(
        plain,
        instances=tuple(
            replace(
                m,
                host_uuid=host(m.rank + 1).uuid,
                address=f"10.9.0.{10 + m.rank}",
                mac=mac_address(f"10.9.0.{10 + m.rank}", m.uuid),
                spec=replace(
                    m.spec,
                    gpus=(GpuRequest("a100", 4),),
                    startup_parameters="" if helper and m.rank else ARGUMENTS[framework],
                ),
            )
            for m in plain.instances
        ),
    )


def told(framework: str) -> str:
    """All documents of all ranks as one text."""
    members, commands = made(framework), {"initial_command": "serve"} if framework == "custom" else {}
    image = Image("engine", disk_path="/engine.qcow2", sha256={"disk": "0" * 64}, delivery="nocloud")
    own = entry(framework=framework, ports=ports_of(framework, {}), image=image, **commands)
    found = []
    for m in members.instances:
        document = rendezvous(members, m, host(m.rank + 1), {zone().uuid: zone()}, {own.uuid: own}, NoSecrets())
        for name, text in sorted(texts(document, members, m).items()):
            found.append(f"--- {m.rank} {name}\n{text.rstrip()}\n")
    return "".join(found)


@pytest.mark.parametrize("framework", sorted(PRESETS))
def test_the_documents_of_every_rank_are_as_recorded(framework: str) -> None:
    assert told(framework) == (GOLDEN / f"{framework}.txt").read_text()


@pytest.mark.parametrize("framework", sorted(PRESETS))
def test_a_presets_own_ports_do_not_overlap(framework: str) -> None:
    assert list(port_problems(framework, ports_of(framework, {}))) == []


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in PRESETS:
        (GOLDEN / f"{name}.txt").write_text(told(name))
