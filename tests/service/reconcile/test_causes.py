"""What a host said is kept without secrets, on one line and not long."""

from __future__ import annotations

import pytest

from service.domain.causes import MOST_CHARACTERS, kept


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no network 'lan'", "no network 'lan'"),
        ("two\nlines\twith\x1b[31m", "two lines with [31m"),
        ("key is aabb, and aa", "key is [secret], and [secret]"),
        ('{"password": "x y", "id": "a"}', '{"password": [secret], "id": "a"}'),
        ("Token=abc,next=1 passphrase: z", "Token=[secret],next=1 passphrase: [secret]"),
        ("", ""),
    ],
)
def test_secrets_and_breaks_are_taken_out(said: str, told: str) -> None:
    assert kept(said, ["aa", "aabb", ""]) == told


def test_it_is_cut() -> None:
    assert len(kept("x" * 5000, [])) == MOST_CHARACTERS
