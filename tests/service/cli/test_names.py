"""What a shell is offered where a thing is named: the names that the service has; nothing where it cannot be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from service.cli import contexts, names
from service.cli.command import Verb, VerbGroup
from service.cli.main import corral
from tests.support.whole import Whole, config_text, whole

# What ends with one of these words names something that is there, and completes; what is new, or no thing, does not.
NAMED = {"group", "groups", "host", "zone", "cluster", "project", "model_service", "context"}
OTHERWISE = {
    "dump": {"group"},  # a flag
    "hosts adopt": {"group"},  # one that the database does not know
}


async def offered(environment: dict[str, str], *words: str) -> list[str]:
    """What is offered for the last word."""
    made = ShellComplete(corral, {"obj": ([], environment)}, "corral", "_CORRAL_COMPLETE")
    *before, last = words
    found = await asyncio.to_thread(made.get_completions, before, last)
    return [one.value for one in found]


def at(lab: Whole, directory: Path) -> dict[str, str]:
    return {"CORRAL_SERVER": str(lab.service.rpc.address), "XDG_CONFIG_HOME": str(directory)}


@pytest.mark.asyncio
async def test_names_that_the_service_has_are_offered(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(2)) as lab:
        environment = at(lab, tmp_path)
        for name in ("chat", "chess", "draw"):
            await lab.up(name=name)
        assert await offered(environment, "group", "ch") == ["chat", "chess"]
        assert await offered(environment, "delete", "chat", "d") == ["draw"]
        assert await offered(environment, "host", "drain", "") == ["host-1", "host-2"]
        assert await offered(environment, "deploy", "--zone", "z") == ["zone-1"]
        assert await offered(environment, "catalog", "show", "") == ["default"]
        assert await offered(environment, "images", "remove", "") == ["guest"]
        assert await offered(environment, "--server", environment["CORRAL_SERVER"], "group", "dr") == ["draw"]


@pytest.mark.asyncio
async def test_contexts_are_offered_from_their_file_and_lead_to_their_service(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        environment = at(lab, tmp_path)
        await lab.up(name="chat")
        kept = contexts.Contexts(
            contexts.directory(environment), "lab", {"lab": contexts.Context(environment.pop("CORRAL_SERVER"))}
        )
        await asyncio.to_thread(kept.write)
        assert await offered(environment, "context", "use", "") == ["lab"]
        assert await offered(environment, "--context", "l") == ["lab"]
        assert await offered(environment, "group", "") == ["chat"]
        assert await offered(environment, "--context", "lost", "group", "") == []


@pytest.mark.asyncio
async def test_nothing_is_offered_where_nobody_answers(tmp_path: Path) -> None:
    environment = {"CORRAL_SERVER": f"unix:{tmp_path}/nobody.sock", "XDG_CONFIG_HOME": str(tmp_path)}
    assert await offered(environment, "group", "") == []


def every_parameter(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Parameter]]:
    for name, command in group.commands.items():
        yield from ((f"{path}{name}", one) for one in command.params)
        if isinstance(command, click.Group):
            yield from every_parameter(command, f"{path}{name} ")


def test_whatever_names_a_thing_that_is_there_completes() -> None:
    assert all(isinstance(one, Verb | VerbGroup) for one in corral.commands.values())
    without = [
        f"{path}: {one.name}"
        for path, one in every_parameter(corral)
        if one.name in NAMED - OTHERWISE.get(path, set()) and not isinstance(one.type, names.Name)
    ]
    assert without == []
