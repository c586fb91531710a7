"""Keys for stored secrets: 32 bytes, from a file of the service alone or from its environment."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from service.config.file import ConfigError, load, parse, warnings
from service.config.keys import KeyUnusable, read_keys
from service.domain.secrets import SecretKey
from tests.service.config.test_config import SMALL
from tests.support.secrets import key_file, key_section

KEY = bytes(range(32))


def test_keys_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    one, two = key_file(tmp_path, "one"), key_file(tmp_path, "two")
    config = parse(SMALL + key_section(two, one) + '[[secret_keys]]\nname = "three"\nvariable = "KEY"\n', tmp_path)
    found = read_keys(config.secret_keys, {"KEY": base64.b64encode(KEY).decode()})
    assert list(found) == ["two", "one", "three"]
    assert found["three"] == KEY
    assert all(len(key) == 32 for key in found.values())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"canary", "not base64"),
        (b"\xff" * 44, "not base64"),
        (base64.b64encode(b"canary"), "has 6 bytes, not 32"),
        (b"", "has 0 bytes"),
    ],
)
def test_what_is_no_key_is_refused_without_a_word_of_it(tmp_path: Path, text: bytes, problem: str) -> None:
    path = key_file(tmp_path, "one")
    path.write_bytes(text)
    with pytest.raises(KeyUnusable, match=problem) as refused:
        read_keys([SecretKey("one", file=str(path))])
    assert "canary" not in str(refused.value)


def test_a_file_that_others_can_use_is_refused_when_the_configuration_is_read(tmp_path: Path) -> None:
    one, two = key_file(tmp_path, "one"), key_file(tmp_path, "two")
    path = tmp_path / "corral.toml"
    path.write_text(SMALL + key_section(one, two))
    load(path)
    two.chmod(0o640)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert refused.value.problems == (f"secret_keys[1].file: {two} can be used by others: chmod 600 it",)
    two.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(KeyUnusable, match="the variable KEY is not set"):
        read_keys([SecretKey("one", variable="KEY")], {})


def test_an_entry_of_a_service_with_a_key_may_refer_to_what_projects_store_and_is_warned_of(tmp_path: Path) -> None:
    entry = '\n[model_services.environment]\nT = "secret://mine"\n'
    with pytest.raises(ConfigError, match=r"environment\.T: there is no secret mine"):
        parse(SMALL + entry, tmp_path)
    config = parse(SMALL + entry + key_section(key_file(tmp_path, "one")), tmp_path)
    assert any("there is no secret mine in [[secrets]]" in line for line in warnings(config))


def test_two_keys_have_two_names(tmp_path: Path) -> None:
    section = key_section(key_file(tmp_path, "one"))
    with pytest.raises(ConfigError, match=r"secret_keys\[1\].name: one is taken"):
        parse(SMALL + section * 2, tmp_path)
