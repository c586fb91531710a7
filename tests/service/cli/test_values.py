"""What options read: what is not of their form is refused in words, before anything is sent."""

from __future__ import annotations

import pytest

from service.cli import values


@pytest.mark.parametrize(
    ("read", "text", "found"),
    [
        (values.size, "16GiB", 16 << 30),
        (values.size, "1.5k", 1536),
        (values.pair, "NAME=a=b", ("NAME", "a=b")),
        (values.amount, "memory=2G", ("memory", 2 << 30)),
        (values.amount, "vcpu=4", ("vcpu", 4)),
        (values.count, "a100=2", ("a100", 2)),
        (values.ratio, "vcpu=2.5", ("vcpu", 2.5)),
    ],
)
def test_what_is_of_the_form_is_read(read: object, text: str, found: object) -> None:
    assert callable(read)
    assert read(text) == found


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (values.size, "many"),
        (values.pair, "=b"),
        (values.amount, "vcpu=1.5"),
        (values.count, "a100=-1"),
        (values.ratio, "vcpu=nan"),
        (values.ratio, "vcpu=inf"),
        (values.ratio, "vcpu=twice"),
        (values.ratio, "vcpu"),
    ],
)
def test_what_is_not_is_named_in_the_refusal(read: object, text: str) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match=f"'{text}' is no"):
        read(text)


@pytest.mark.parametrize(("text", "ms"), [("90s", 90_000), ("15m", 900_000), ("2h", 7_200_000), ("3d", 259_200_000)])
def test_a_duration_is_a_number_with_its_unit(text: str, ms: int) -> None:
    assert values.duration(text) == ms


@pytest.mark.parametrize("text", ["", "90", "0s", "1.5h", "-1s", "2 h", "1w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        values.duration(text)
