"""Contexts: what is kept and where, who may read it, and to whom a token goes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from service.cli import errors
from service.cli.main import run
from tests.service.cli.test_channel import Listening, address, service

__all__ = ["address", "service"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "home")}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    (tmp_path / "t").write_text("t0ken\n")
    return tmp_path / "home/corral"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_context_leads_to_its_service_with_its_token(
    service: Listening, address: str, environment: dict[str, str], kept: Path, tmp_path: Path
) -> None:
    assert run(["context", "set", "lab", "--server", address, "--token-file", str(tmp_path / "t")], environment) == 0
    assert (mode(kept), mode(kept / "lab.token"), mode(kept / "contexts.yaml")) == (0o700, 0o600, 0o600)
    assert "t0ken" not in (kept / "contexts.yaml").read_text()
    assert run(["list"], environment) == errors.OK
    assert run(["list"], {**environment, "CORRAL_TOKEN": "other"}) == errors.OK
    assert run(["context", "set", "far", "--server", "unix:/nonexistent"], environment) == errors.OK  # in use now
    assert run(["--context", "lab", "list"], environment) == errors.OK
    assert run(["list"], {**environment, "CORRAL_CONTEXT": "lab"}) == errors.OK
    # Who names an address himself gets there without the context's token.
    assert run(["--context", "lab", "--server", address, "list"], environment) == errors.OK
    assert service.seen == ["Bearer t0ken", "Bearer other", "Bearer t0ken", "Bearer t0ken", ""]


def test_contexts_are_told_to_programs_without_their_tokens(
    address: str, environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t").write_text("t0ken\n")
    run(["context", "set", "lab", "--server", address, "--token-file", str(tmp_path / "t")], environment)
    run(["context", "set", "far", "--server", "unix:/nonexistent"], environment)
    capsys.readouterr()
    assert run(["context", "--output", "json"], environment) == errors.OK
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["name"], one["server"], one["current"], one["token"]) for one in told] == [
        ("far", "unix:/nonexistent", True, False),
        ("lab", address, False, True),
    ]
    assert "t0ken" not in str(told)
    assert run(["context", "-o", "name"], environment) == errors.OK
    assert capsys.readouterr().out.split() == ["far", "lab"]


def test_a_token_that_others_may_read_is_not_used_and_not_shown(
    service: Listening,
    address: str,
    environment: dict[str, str],
    kept: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(["context", "set", "lab", "--server", address, "--token-file", str(tmp_path / "t")], environment)
    (kept / "lab.token").chmod(0o640)
    assert run(["list"], environment) == errors.USAGE
    told = capsys.readouterr().err
    assert ("others may read" in told, "t0ken" in told, service.seen) == (True, False, [])


def test_a_context_is_used_listed_and_forgotten_with_its_token(
    address: str, environment: dict[str, str], kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        run(["context", "set", name, "--server", address, "--token-file", str(tmp_path / "t")], environment)
    assert run(["context", "use", "one"], environment) == errors.OK
    capsys.readouterr()
    assert run(["context"], environment) == errors.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["*", "one"], ["two", address]]
    assert run(["context", "remove", "one"], environment) == errors.OK
    assert not (kept / "one.token").exists()
    assert run(["--context", "one", "list"], environment) == errors.NOT_FOUND
    assert "there are: two" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["- 1\n", "current: [", "contexts: {a: {colour: red}}\n"])
def test_a_file_that_is_none_is_told(environment: dict[str, str], kept: Path, text: str) -> None:
    kept.mkdir(parents=True)
    (kept / "contexts.yaml").write_text(text)
    assert run(["list"], environment) == errors.USAGE
