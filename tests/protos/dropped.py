"""Whether each row of `protos/EFFECTS.md` names a test that fails where its field is ignored.

    python -m tests.protos.dropped [FIELD | MESSAGE.FIELD …]

The tests of a row run once more in a world in which that one field is lost behind the checks of a request, in this
process and in services that they start; one of them must fail there, as it would where nothing looked at the field any
more. Prints the rows whose tests do not notice, and ends with their number.
"""

from __future__ import annotations

import sys

from google.protobuf.message import Message

from service.contract import validation
from tests.support.losing import notices

_MODULE = "tests.protos.dropped"
_check = validation.check


def lose(message: Message, field: str, messages: frozenset[str], others: frozenset[str]) -> None:
    """Take the field out of these messages, without any out of all but `others`, wherever they are in this one."""
    name = message.DESCRIPTOR.name
    if field in message.DESCRIPTOR.fields_by_name and (name in messages if messages else name not in others):
        message.ClearField(field)
    for inner, value in message.ListFields():
        if inner.message_type is None or inner.message_type.GetOptions().map_entry:
            continue
        for one in value if inner.is_repeated else (value,):
            lose(one, field, messages, others)


def install(words: str) -> None:
    """From now on no request has the field behind its checks. `words`: the field, and the messages as of `lose`."""
    field, of, *others = words.split(" ")

    def losing(request: Message) -> None:
        _check(request)
        lose(request, field, frozenset({of} - {"*"}), frozenset(others))

    setattr(validation, "check", losing)  # noqa: B010  # in the place of a function


def main(picked: list[str]) -> int:
    """Try the rows of these fields, without any all."""
    from tests.protos.test_effects import ROWS, named

    own: dict[str, list[str]] = {}
    for field, of, *_ in ROWS:
        own.setdefault(field, []).extend([of] if of else [])
    blind = 0
    for field, of, _, shown in ROWS:
        if picked and field not in picked and f"{of}.{field}" not in picked:
            continue
        words = " ".join([field, of or "*", *([] if of else own[field])])
        # What is nearest to the wire comes last in a row.
        if not any(notices(_MODULE, words, test) for test in reversed(named(shown))):
            blind += 1
            print(f"{of or '*'}.{field}: {shown} passes without it", flush=True)
    print(f"{blind} rows name no test that notices", flush=True)
    return min(blind, 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
