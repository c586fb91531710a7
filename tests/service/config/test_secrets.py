"""Secrets of the configuration: named there, read where they are, and told to nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.config.file import ConfigError, parse
from service.config.secrets import ConfiguredSecrets
from service.domain.environment import SECRET_LIMIT, Secret, SecretUnavailable
from tests.service.config.test_config import SMALL


def test_a_secret_is_read_from_its_file_each_time(tmp_path: Path) -> None:
    config = parse(f'{SMALL}\n[[secrets]]\nname = "token"\nfile = "token"\nprojects = ["red"]\n', tmp_path)
    secrets = ConfiguredSecrets(config.secrets)
    assert secrets.known("token", "red")
    assert not secrets.known("token", "blue")
    assert secrets.known("token", None)
    assert not secrets.known("other", None)
    (tmp_path / "token").write_text("first\n")
    assert secrets.value("token", "red") == "first"
    (tmp_path / "token").write_text("second")
    assert secrets.value("token", "red") == "second"
    with pytest.raises(SecretUnavailable):
        secrets.value("token", "blue")


def test_a_secret_of_the_environment_is_there_for_every_project_where_none_is_named() -> None:
    secrets = ConfiguredSecrets([Secret("token", variable="TOKEN")], {"TOKEN": "ä value"})
    assert secrets.value("token", "any") == "ä value"


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\n", b"canary-1\ncanary-2\n", b"canary\xff", b"canary\0", b"canary" * SECRET_LIMIT, "directory"],
)
def test_what_cannot_be_a_value_is_refused_without_a_word_of_it(tmp_path: Path, content: object) -> None:
    path = tmp_path / "token"
    if content == "directory":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(SecretUnavailable) as refused:
        ConfiguredSecrets([Secret("token", file=str(path))]).value("token", "red")
    assert "token" in str(refused.value)
    assert "canary" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ('name = "a"', "secrets[0]: name either a file or a variable"),
        ('name = "a"\nfile = "x"\nvariable = "X"', "secrets[0]: name either a file or a variable"),
        ('name = "a/b"\nfile = "x"', "secrets[0].name"),
        ('name = "a"\nvariable = "A B"', "secrets[0].variable"),
        ('name = "a"\nfile = "x"\n[[secrets]]\nname = "a"\nfile = "y"', "secrets[1].name: a is taken"),
    ],
)
def test_a_section_that_is_wrong_is_named(section: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"{SMALL}\n[[secrets]]\n{section}\n", Path("/etc/corral"))
    assert any(line.startswith(problem) for line in refused.value.problems), refused.value.problems


@pytest.mark.parametrize(
    ("variable", "problem"),
    [
        ('CORRAL_RANK = "1"', "is set by Corral itself"),
        ('NODE_RANK = "1"', "is set by Corral itself"),
        ('T = "secret://none"', "there is no secret none"),
        ('"A B" = "x"', "variable's name"),
    ],
)
def test_an_entry_s_variables_follow_the_rules_of_the_catalogue_s_calls(variable: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"{SMALL}\n[model_services.environment]\n{variable}\n", Path("/etc/corral"))
    (line,) = refused.value.problems
    assert line.startswith("model_services[0].environment.")
    assert problem in line
