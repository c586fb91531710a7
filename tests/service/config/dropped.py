"""Whether each row of `deploy/CONFIGURATION.md` names a test that fails where its key has no effect.

    python -m tests.service.config.dropped [KEY …]

Each row's test runs once more in a world in which the file's reader loses that one key, in this process and in services
that the test starts; it must fail there, as it would where nothing looked at the key any more. Prints the rows whose
tests do not notice, and ends with their number.
"""

from __future__ import annotations

import sys
from typing import Any

from service.config import file
from tests.support.losing import notices

_MODULE = "tests.service.config.dropped"
_checked = file._checked


def lose(raw: dict[str, Any], path: list[str]) -> None:
    """Take a key out of a file's tables, wherever it stands in a list of them."""
    head, *rest = path
    if not rest:
        raw.pop(head, None)
        return
    inner = raw.get(head)
    for table in inner if isinstance(inner, list) else [inner]:
        if isinstance(table, dict):
            lose(table, rest)


def install(key: str) -> None:
    """From now on the reader of configuration files does not see the key."""

    def losing(raw: dict[str, Any], *rest: Any) -> Any:
        lose(raw, key.split("."))
        return _checked(raw, *rest)

    setattr(file, "_checked", losing)  # noqa: B010  # of another shape for the type checker


def main(keys: list[str]) -> int:
    """Try the rows of these keys, without any all."""
    from tests.service.config.test_effects import ROWS

    blind = 0
    for key, _, test in ROWS:
        if keys and key not in keys:
            continue
        if not notices(_MODULE, key, test):
            blind += 1
            print(f"{key}: {test} passes without it", flush=True)
    print(f"{blind} rows name a test that does not notice", flush=True)
    return min(blind, 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
