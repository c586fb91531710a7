"""`deploy/CONFIGURATION.md` has a row for every key of the file, every key counts, and what shows an effect exists."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from service.config import schema
from service.config.file import ConfigError, parse
from tests.support import ROOT

ROWS = re.findall(r"^\| `([\w.]+)` \| (.+?) \| `([^`]+)` \|$", (ROOT / "deploy/CONFIGURATION.md").read_text(), re.M)


def keys(model: type[BaseModel] = schema.Configuration, before: str = "") -> Iterator[str]:
    """Every key, by its path."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *typing.get_args(field.annotation))
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is None:
            yield before + name
        else:
            yield from keys(inner, f"{before}{name}.")


def test_every_key_has_a_row_and_no_row_is_of_none() -> None:
    assert [key for key in keys() if key not in {row[0] for row in ROWS}] == []
    assert sorted(row[0] for row in ROWS) == sorted(keys())


def test_what_shows_an_effect_exists() -> None:
    gone = []
    for _, _, shown in ROWS:
        file, _, name = shown.partition("::")
        path = ROOT / "tests" / file
        if not path.is_file() or not re.search(rf"^(async )?def {name}\(", path.read_text(), re.M):
            gone.append(shown)
    assert gone == []


EXAMPLE = (ROOT / "deploy/config.example.toml").read_text()


def test_an_unknown_key_is_refused_in_every_table(tmp_path: Path) -> None:
    """So that no key is taken and changes nothing: what is not in the table above does not exist."""
    for head in sorted(set(re.findall(r"^\[\[?[\w.]+\]\]?$", EXAMPLE, re.M))):
        text = EXAMPLE.replace(f"{head}\n", f'{head}\nodd_key = "x"\n', 1)
        if head.strip("[]") in ("hosts.options", "hosts.capacity", "hosts.labels", "model_services.environment"):
            continue  # names of the operator's own
        with pytest.raises(ConfigError) as refused:
            parse(text, tmp_path)
        assert any("odd_key" in problem for problem in refused.value.problems), head
