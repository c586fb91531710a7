"""What stands over the file: the environment, and over that the command line; and what is printed of what holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.__main__ import main
from service.config.file import ConfigError, Overlay, load, parse, printed, warnings
from service.config.overlay import keys
from tests.support.process import CONFIGURATION


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "corral.toml"
    (tmp_path / "none").touch()
    made.write_text('[log]\nlevel = "info"\n' + CONFIGURATION.replace("/boot/none", str(tmp_path / "none")))
    return made


def test_the_command_line_stands_over_the_environment_and_that_over_the_file(file: Path) -> None:
    environment = {
        "CORRAL_LOG_LEVEL": "warning",
        "CORRAL_SERVER": "not the service's: the command's",
        "CORRAL_SERVER_MAX_NODES": "7",
        "CORRAL_SERVER_INSECURE": "true",
        "CORRAL_SERVER_HOST_NAMES": "a.example, b.example",
        "CORRAL_SERVER_MAX_MESSAGE_BYTES": "1MiB",
        "CORRAL_OVERCOMMIT_CPU": "3/2",
    }
    assert load(file).log.level == "info"
    found = load(file, Overlay(environment, ["log.level=debug", "server.grpc=0.0.0.0:1"]))
    assert (found.log.level, str(found.server.grpc), found.server.max_nodes) == ("debug", "0.0.0.0:1", 7)
    assert found.server.host_names == ("a.example", "b.example")
    assert found.server.max_message_bytes == 1 << 20
    assert found.overcommit.ratios["vcpu"] == pytest.approx(1.5)


def test_mistakes_are_told_all_at_once_with_who_made_them(file: Path) -> None:
    file.write_text(
        file.read_text().replace('zone = "zone-1"', 'zone = "zone-9"').replace('"guest"\n[[acc', '"no"\n[[acc')
    )
    environment = {"CORRAL_SERVER_MAX_NODES": "many", "CORRAL_LOG_LEVLE": "info", "CORRAL_SERVER_GRPC": "0.0.0.0:50051"}
    with pytest.raises(ConfigError) as error:
        load(file, Overlay(environment, ["log.level=loud", "server.colour=red"]))
    told = "\n".join(error.value.problems)
    for part in (
        "server.max_nodes: input should be a valid integer (got 'many') (by $CORRAL_SERVER_MAX_NODES)",
        "$CORRAL_LOG_LEVLE: no such key; there are: $CORRAL_LOG_FORMAT, $CORRAL_LOG_LEVEL",
        "(by --set log.level)",
        "--set server.colour: section.key=value",
        "hosts[0].zone: no zone 'zone-9'",
    ):
        assert part in told


def test_a_listener_without_tls_is_told_with_who_opened_it(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"server.grpc: 0.0.0.0:1 can be reached .* \(by \$CORRAL_SERVER_GRPC\)"):
        load(file, Overlay({"CORRAL_SERVER_GRPC": "0.0.0.0:1"}))


def test_what_is_printed_is_what_holds_without_secrets(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canary = "canary-of-a-secret"
    digest = hashlib.sha256(canary.encode()).hexdigest()
    text = file.read_text()
    text += f'[[tokens]]\nname = "ci"\nrole = "viewer"\nsha256 = "{digest}"\n'
    text += '[[secrets]]\nname = "b"\nvariable = "B"\n'
    text += f'[[access_keys]]\nname = "k"\nid = "12345678"\nsecret = "{canary}"\nrole = "viewer"\n'
    text = text.replace('image = "guest"\n', f'image = "guest"\nenvironment = {{ A = "{canary}", B = "secret://b" }}\n')
    file.write_text(text)
    store = f"store.url=postgresql+psycopg://corral:{canary}@db/corral?password={canary}"
    assert main(["print-config", "--config", str(file), "--set", "log.level=debug", "--set", store]) == 0
    told = capsys.readouterr().out
    assert canary not in told
    assert digest not in told
    assert hashlib.sha512(b"secret").hexdigest() not in told
    assert 'level = "debug"' in told
    assert "corral:(hidden)@db/corral" in told
    assert 'B = "secret://b"' in told


def test_what_is_printed_of_a_file_without_secrets_reads_as_the_same(file: Path) -> None:
    text = file.read_text()
    file.write_text(text[: text.index("[[accounts]]")])
    assert parse(printed(file), file.parent) == load(file)


def test_every_key_of_a_table_that_stands_once_can_be_given() -> None:
    told = {".".join(path) for path in keys()}
    assert {"server.grpc", "server.tls.certificate", "store.url", "log.level", "webhooks.allow"} <= told
    assert not any(key.startswith(("hosts", "zones", "tokens")) for key in told)


def test_what_cannot_work_is_warned_of(file: Path) -> None:
    more = '[[quotas]]\nproject = "nobodys"\ncpu = 1\n[identity]\nanonymous = "nobody"\n'
    file.write_text(file.read_text() + more)
    told = warnings(load(file, Overlay({}, ["store.url=postgresql+psycopg:///corral"])))
    assert any("each see another host" in one for one in told)
    assert any("nobody calls for project nobodys" in one for one in told)
    file.write_text(file.read_text().partition("[[accounts]]")[0] + '[identity]\nanonymous = "nobody"\n')
    assert any("nobody may call" in one for one in warnings(load(file)))
