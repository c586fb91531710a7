"""Laws of counting: what many hosts have is the sum of what each has, and nothing is given out that is not there."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.app.capacity import HostView, amounts, summed
from service.domain.fleet import Overcommit
from service.store.loads import HostLoad
from tests.support.builders import host

# A loaded machine draws slowly; that says nothing about the law.
LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
AMOUNT = st.integers(0, 1 << 40)
RATIO = st.builds(Fraction, st.integers(1, 1000), st.integers(1, 100))


@st.composite
def views(draw: st.DrawFn) -> HostView:
    """A host with any amounts, used within and beyond what its policy allows now."""
    names = draw(st.lists(st.sampled_from(["vcpu", "memory", "gpu.x"]), unique=True))
    policy = Overcommit({n: draw(RATIO) for n in names}, {n: draw(AMOUNT) for n in names if draw(st.booleans())})
    total = {n: draw(AMOUNT) for n in names}
    return HostView(
        host(
            total=total,
            allocatable=policy.allocatable({n: total[n] for n in names}),
            used={n: draw(AMOUNT) for n in names},
            foreign={n: draw(AMOUNT) for n in names if draw(st.booleans())},
        ),
        HostLoad(),
        policy,
    )


@given(views())
@LAW
def test_what_is_available_is_what_is_allocatable_and_neither_claimed_nor_foreign(view: HostView) -> None:
    for one in amounts(view):
        assert one.allocatable == max(0, (one.total - one.reserved) * one.ratio // 1)
        assert one.available == max(0, one.allocatable - one.claimed - one.foreign)


@given(st.lists(views(), max_size=5))
@LAW
def test_the_whole_is_the_sum_of_its_parts(parts: list[HostView]) -> None:
    every = [one for view in parts for one in amounts(view)]
    for whole in summed(parts):
        mine = [one for one in every if one.resource == whole.resource]
        for name in ("total", "reserved", "allocatable", "claimed", "foreign", "available"):
            assert getattr(whole, name) == sum(getattr(one, name) for one in mine)
    assert {one.resource for one in summed(parts)} == {one.resource for one in every}


@given(views(), st.integers(1, 4))
@LAW
def test_the_ratio_of_equal_hosts_is_theirs(view: HostView, count: int) -> None:
    for one, whole in zip(amounts(view), summed([view] * count), strict=True):
        assert whole.ratio == (one.ratio if one.total > one.reserved else 1)
