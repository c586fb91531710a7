"""The gauges that mirror the store: labels that tell hosts apart, and nothing old while the store is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from service.errors import Unavailable
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio


def _sample(lab: Whole, name: str, **labels: str) -> float | None:
    return lab.service.metrics.registry.get_sample_value(name, labels)


async def test_hosts_bear_their_names_and_two_of_one_name_the_heads_of_their_uuids(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        added = await lab.add_host(name="host-1")
        await lab.add_host(name="other")
        await lab.service.gauges.refresh()
        first = lab.service.config.hosts[0].uuid
        for uuid in (first, added.uuid):
            assert _sample(lab, "corral_host_up", host=f"host-1 ({uuid[:8]})", zone="zone-1") == 1
        assert _sample(lab, "corral_host_up", host="other", zone="zone-1") == 1
        twin = {"host": f"host-1 ({added.uuid[:8]})", "zone": "zone-1"}
        assert (_sample(lab, "corral_host_allocatable_vcpus", **twin) or 0) > 0
        assert _sample(lab, "corral_hosts", state="Enabled", status="Connected") == 3


async def test_a_store_that_is_away_leaves_no_old_figures(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        gauges, up = lab.service.gauges, {"host": "host-1", "zone": "zone-1"}

        async def away(_work: Any) -> Any:
            raise Unavailable("the database cannot be reached")

        await gauges.refresh()
        with patch.object(lab.service.store, "read", away):
            with pytest.raises(Unavailable):
                await gauges.refresh()
            assert _sample(lab, "corral_host_up", **up) == 1  # one scrape may miss it
            with pytest.raises(Unavailable):
                await gauges.refresh()
            assert _sample(lab, "corral_host_up", **up) is None
        await gauges.refresh()
        assert _sample(lab, "corral_host_up", **up) == 1


async def test_transactions_are_counted_by_kind_and_outcome(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        before = _sample(lab, "corral_database_transaction_duration_seconds_count", kind="write", outcome="refused")

        def refuse(_connection: Any) -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await lab.service.store.write(refuse)
        after = _sample(lab, "corral_database_transaction_duration_seconds_count", kind="write", outcome="refused")
        assert after == (before or 0) + 1
        assert (_sample(lab, "corral_database_size_bytes") or 0) == 0
        await lab.service.gauges.refresh()
        assert (_sample(lab, "corral_database_size_bytes") or 0) > 4096
        assert _sample(lab, "corral_database_up") == 1
