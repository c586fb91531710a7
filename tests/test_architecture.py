"""The documents for those who change Corral are true: folders, files, names, invariants and links exist."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAP = (ROOT / "ARCHITECTURE.md").read_text()
ROOMS = ("placement", "service", "protos", "tests", "deploy")
ABOVE = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md", "Makefile", "pyproject.toml")
GUIDES = ("deploy/README.md", "deploy/INSTALL.md", "deploy/RUNBOOKS.md")
DOCUMENTS = (*ABOVE[:3], *GUIDES, "deploy/guest/README.md", "protos/README.md")
TEXTS = (".py", ".proto", ".md", ".toml", ".sh", ".yml", ".js", "Makefile")
MOST_LINES = 400
LONG = {
    "service/domain/groups.py": 470,  # what is stored of a group and its members
    "service/drivers/base.py": 470,  # all that every driver is asked for, and its answers
    "service/drivers/libvirt/driver.py": 440,  # the same, each with its thread and its connection
    "service/store/schema.py": 460,  # one table after the other
    "tests/simulation/plants.py": 500,  # one bug after the other
    "tests/simulation/scenario.py": 445,  # what there is in a seed, and how it goes
}
"""The most lines of a file of Python, and of the few that may have more."""
NO_ROOM = {"__pycache__", "node_modules"}


def _folders() -> Iterator[str]:
    """Every folder of the rooms that holds a file, relative to the root."""
    for room in ROOMS:
        for folder, below, files in os.walk(ROOT / room):
            below[:] = sorted(name for name in below if name not in NO_ROOM and not name.endswith(".egg-info"))
            if files or room == Path(folder).name:
                yield str(Path(folder).relative_to(ROOT))


def _sources() -> Iterator[Path]:
    """Every text that is written by hand and may cite something."""
    yield from (ROOT / name for name in ABOVE)
    for folder in _folders():
        for path in sorted((ROOT / folder).iterdir()):
            if path.is_file() and path.name.endswith(TEXTS) and "_pb2" not in path.name:
                yield path


def _quoted(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


@cache
def _names(path: Path) -> frozenset[str]:
    """Names that a module, its classes or its functions define: `name`, `Class.name`."""
    found = set()

    def take(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                found.add(prefix + node.name)
                take(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update(
                    prefix + part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)
                )

    take(ast.parse(path.read_text()).body, "")
    return frozenset(found)


def test_every_folder_is_named_in_the_map() -> None:
    named = {word.rstrip("/") for word in _quoted(MAP)}
    whole = tuple(word.removesuffix("/**") for word in _quoted(MAP) if word.endswith("/**"))
    missing = [f for f in _folders() if f not in named and not any(f == w or f.startswith(f"{w}/") for w in whole)]
    assert missing == [], f"ARCHITECTURE.md does not say what {missing} are for"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_name_that_a_document_quotes_exists(document: str) -> None:
    wrong = []
    for word in _quoted((ROOT / document).read_text()):
        if not re.match(rf"({'|'.join(ROOMS)})/[\w./*-]*", word):
            continue
        path, _, name = word.partition(":")
        place = ROOT / path.removesuffix("**")
        if " " in path or "<" in path:
            continue
        if not place.exists() or (name and name not in _names(place)):
            wrong.append(word)
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_leads_somewhere(document: str) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / document).read_text()):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        path = (ROOT / document).parent / file if file else ROOT / document
        if not path.exists() or (heading and heading not in _headings(path)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_that_a_document_names_exists(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", (ROOT / document).read_text(), re.MULTILINE)) <= {
        *((target, "") for target in targets),
        *(("", target) for target in targets),
    }


def _headings(path: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def _invariants() -> list[str]:
    return re.findall(r"^\| (I\d+) \|", MAP, re.MULTILINE)


def _mechanisms() -> list[str]:
    section = MAP[MAP.index("## 6. Mechanisms") : MAP.index("## 7. ")]
    return re.findall(r"^(\d+)\. ", section, re.MULTILINE)


def test_the_map_has_every_invariant_and_mechanism_once_and_in_order() -> None:
    assert _invariants() == [f"I{n}" for n in range(1, 24)]
    assert _mechanisms() == [str(n) for n in range(1, 21)]


@pytest.mark.parametrize("room", ["service", "placement"])
def test_the_floors_are_those_that_are_enforced(room: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [c["layers"] for c in contracts if c["type"] == "layers" and c["containers"] == [room]]
    (drawn,) = re.findall(rf"^{room}: ((?:.|\n(?= ))*)", MAP, re.MULTILINE)
    floors = [sorted(re.split(r"[|,]", floor)) for floor in re.sub(r"\s", "", drawn).split(">")]
    assert floors == [sorted(re.split(r" [|:] ", floor.strip("()"))) for floor in layers]


def test_no_file_grows_into_two_rooms_in_one() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _sources() if path.suffix == ".py"
    }
    grown = {name: count for name, count in lines.items() if count > LONG.get(name, MOST_LINES)}
    assert grown == {}, "CONTRIBUTING, style: split them where a real seam is"
    assert all(lines[name] > MOST_LINES - 20 for name in LONG), "what is short again needs no exception"


def test_what_code_and_tests_cite_exists() -> None:
    wrong, cited = set(), set()
    for path in _sources():
        text = path.read_text()
        found = {f"mechanism {n}" for n in re.findall(r"\bmechanisms? (\d+)", text)}
        if path.suffix == ".py" and path != Path(__file__):
            found |= set(re.findall(r"\bI\d{1,2}\b", text))
        cited |= found
        known = {*_invariants(), *(f"mechanism {n}" for n in _mechanisms())}
        wrong |= {f"{path.relative_to(ROOT)}: {name}" for name in found - known}
    assert {"I2", "mechanism 3"} <= cited, "nothing was found: this test looks in the wrong place"
    assert wrong == set()


def test_nothing_cites_a_document_that_does_not_exist() -> None:
    """By its file's name in capitals, or as in "ARCHITECTURE I2"."""
    by_file = re.compile(r"(?<![\w/.-])((?:[\w.-]+/)*[A-Z][A-Z-]+\.md)\b")
    by_title = re.compile(r"\b([A-Z]{5,})(?= (?:I\d|mechanism \d)|'s (?:contract|rendezvous|section|dictionary))")
    wrong = []
    for path in _sources():
        text = path.read_text()
        cited = {*by_file.findall(text), *(f"{title}.md" for title in by_title.findall(text))}
        places = (ROOT, path.parent, ROOT / "protos")
        missing = [name for name in sorted(cited) if not any((place / name).is_file() for place in places)]
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in missing]
    assert wrong == []
