"""`make baremetal` runs every check that there is: pytest drops a file that is named beside its own folder."""

from __future__ import annotations

import ast
import re
import subprocess

from tests.support import ROOT


def test_the_command_names_every_file_with_checks_and_no_folder() -> None:
    told = subprocess.run(["make", "-n", "baremetal"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"tests/baremetal\S*", told))
    checks = {path for path in (ROOT / "tests/baremetal").glob("*.py") if "\ndef test_" in path.read_text()}
    own = ROOT / "tests/baremetal/test_command.py"
    assert named == {str(path.relative_to(ROOT)) for path in checks - {own}}


def test_no_check_makes_a_lab_of_its_own_beside_that_of_all() -> None:
    """A fixture that a module imports is made once more for it, and lives as long as the first."""
    brought = {
        f"{path.name}: {alias.name}"
        for path in (ROOT / "tests/baremetal").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "tests.lab.fixtures"
        for alias in node.names
        if alias.name in ("lab", "guest_image")
    }
    assert brought == {"conftest.py: lab", "conftest.py: guest_image"}
