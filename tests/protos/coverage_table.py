"""Which tests call which RPC, and which tests are about which field of the documented ZStack API: protos/COVERAGE.md.

`make coverage-table` writes it. What a test calls is read from its source: a method's name as attribute or text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2, project_pb2, secret_pb2

from service.contract.roles import ROLES
from service.http.bindings import rules

TESTS = Path(__file__).resolve().parents[1]
TABLE = TESTS.parent / "protos/COVERAGE.md"
DOCUMENTED = Path("service/http/zstack/test_documented.py")
SERVICES = [
    service
    for module in (deploy_pb2, fleet_pb2, catalog_pb2, project_pb2, secret_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
RPCS = tuple(f"{service.name}/{method.name}" for service in SERVICES for method in service.methods)
# The suites that take all methods from the contract itself, so that a new one is in them from its first day.
ALL_RPCS: Mapping[str, str] = {
    "service/app/test_identity.py": "has a row in the table of roles",
    "security/test_tenants_and_roles.py": "answers its roles alone, nobody without credentials, no other tenant's ids",
    "service/rpc/test_fuzz.py": "ends on no INTERNAL and no UNKNOWN for built and mutated messages",
    "service/rpc/test_audit.py": "leaves one audit row where it changes something",
    "protos/test_contract.py": "has an HTTP binding of its own, bounded fields, and breaks no released client",
}
# Names methods without calling them.
_TABLES = frozenset({"service/http/zstack/test_apis.py"})
# Where a reader looks first.
_NEAREST = ("service/rpc", "service/http", "service/client", "contract", "security", "service", "integration")
_SHOWN = 5

PARAMETERS = (
    "modelServices",
    *(f"modelServices.{n}" for n in ("isInitialNode", "uuid", "zoneUuid", "cpuNum", "name", "type", "memorySize")),
    "modelServices.timeout",
    *("serviceCreationStrategy", "name", "description", "systemTags", "userTags", "resourceUuid", "tagUuids"),
)
REPLY = (
    *("success", "error", "inventory", "inventory.uuid", "inventory.modelServiceUuid", "inventory.modelUuid"),
    *("inventory.instances", "inventory.datasetRefInventories", "inventory.status", "inventory.modelServiceType"),
    *("inventory.type", "inventory.name", "inventory.description", "inventory.yaml", "inventory.supportMetrics"),
    *("inventory.exportPath", "inventory.createDate", "inventory.lastOpDate"),
)


@cache
def _words(file: Path) -> frozenset[str]:
    """Attributes and texts of a source file; of a path its last part."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.rpartition("/")[2])
    return frozenset(found)


def callers(rpc: str) -> Sequence[str]:
    """The test files that call an RPC on its own, those that a reader looks at first in front; relative to tests/."""
    name = rpc.partition("/")[2]
    files = [str(f.relative_to(TESTS)) for f in TESTS.rglob("test_*.py") if name in _words(f)]
    found = [file for file in files if file not in ALL_RPCS and file not in _TABLES]

    def nearness(file: str) -> tuple[int, str]:
        where = next((i for i, start in enumerate(_NEAREST) if file.startswith(f"{start}/")), len(_NEAREST))
        return where, file

    return sorted(found, key=nearness)


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", name).lower().replace(".", "_")


def documented_tests() -> Mapping[str, Sequence[str]]:
    """Field -> the tests that are named after it; `parameter:` and `reply:` keep the two kinds apart.

    A test belongs to the longest name that its own begins with. Raises ValueError for one that belongs to none.
    """
    names = {f"test_parameter_{_snake(p)}": f"parameter:{p}" for p in PARAMETERS}
    names |= {f"test_reply_{_snake(r)}": f"reply:{r}" for r in REPLY}
    found: dict[str, list[str]] = {field: [] for field in names.values()}
    tree = ast.parse((TESTS / DOCUMENTED).read_text())
    for node in tree.body:
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node.name.startswith("test_"):
            fitting = [name for name in names if node.name == name or node.name.startswith(f"{name}_")]
            if not fitting:
                raise ValueError(f"{node.name} is named after no documented field")
            found[names[max(fitting, key=len)]].append(node.name)
    return found


def _rows() -> Iterator[str]:
    http = {f"{r.service.rpartition('.')[2]}/{r.method}": f"{r.verb} {r.path}" for r in rules(SERVICES)}
    for rpc in RPCS:
        files = callers(rpc)
        more = " …" if len(files) > _SHOWN else ""
        listed = ", ".join(f"`{file}`" for file in files[:_SHOWN])
        yield f"| `{rpc}` | {ROLES[f'corral.v1.{rpc}']} | `{http[rpc]}` | {listed}{more} |"


def render() -> str:
    """The whole document."""
    documented = documented_tests()
    lines = [
        "# What is tested of the API",
        "",
        "Written by `make coverage-table`. Files are below `tests/`.",
        "",
        f"{len(RPCS)} RPCs, {len(PARAMETERS)} parameters and {len(REPLY)} reply fields of the documented ZStack API.",
        "",
        "## Every RPC",
        "",
        "| suite | shows of each RPC, by construction, that it |\n|---|---|",
        *(f"| `{file}` | {what} |" for file, what in ALL_RPCS.items()),
        "",
        "## Each RPC",
        "",
        "| RPC | role | HTTP | called by |\n|---|---|---|---|",
        *_rows(),
        "",
        f"## Fields of `deployDistributedModelService` (`{DOCUMENTED}`)",
        "",
        "| field | tests |\n|---|---|",
    ]
    for field, tests in documented.items():
        kind, _, name = field.partition(":")
        lines.append(f"| {kind} `{name}` | {', '.join(f'`{test}`' for test in tests)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(render())
