"""Bearer tokens of the configuration: known by the digest of their text, or by the file that holds it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.config.file import ConfigError, parse, warnings
from tests.service.config.test_config import SMALL

SECTION = '\n[[tokens]]\nname = "page"\nrole = "viewer"\n'
TEXT = "a-token-of-this-test"


def test_a_token_of_a_file_is_the_one_of_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TEXT}\n")
    path.chmod(0o600)
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    by_file = parse(f'{SMALL}{SECTION}file = "token"\n', tmp_path)
    assert by_file.tokens == parse(f'{SMALL}{SECTION}sha256 = "{digest}"\n', tmp_path).tokens
    assert TEXT not in repr(by_file)
    assert not [line for line in warnings(by_file) if line.startswith("tokens")]
    path.chmod(0o644)
    assert any("tokens.page: others can read" in line for line in warnings(by_file))


def test_of_a_file_that_is_not_there_nobody_has_the_token_and_it_is_said(tmp_path: Path) -> None:
    config = parse(f'{SMALL}{SECTION}file = "token"\n', tmp_path)
    assert config.tokens == ()
    assert any(f"tokens.page: there is no file {tmp_path}/token" in line for line in warnings(config))


@pytest.mark.parametrize("text", [b"", b"canary", b"\xff" * 40])
def test_what_is_no_token_is_refused_without_a_word_of_it(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "token").write_bytes(text)
    with pytest.raises(ConfigError, match=r"tokens\[0\]\.file") as refused:
        parse(f'{SMALL}{SECTION}file = "token"\n', tmp_path)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("keys", ["", f'sha256 = "{"0" * 64}"\nfile = "token"\n'])
def test_a_token_has_one_source(tmp_path: Path, keys: str) -> None:
    with pytest.raises(ConfigError, match="name either a sha256 or a file"):
        parse(SMALL + SECTION + keys, tmp_path)
