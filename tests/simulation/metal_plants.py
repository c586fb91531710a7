"""Planted bugs about machines that are given out as a whole, and are cleaned between two projects."""

# ruff: noqa: E501  (pieces of source stand here as they stand in the program)

from __future__ import annotations

from tests.simulation.planting import Edit, Plant, one

TRANSLATE, STEPS = "service.planning.translate", "service.transactions.cleaning"
FLEET, ATTEMPT = "service.domain.fleet", "service.reconcile.cleaning_attempt"

METAL: tuple[Plant, ...] = (
    one(
        "a member claims of a machine what it asked for",
        TRANSLATE,
        "    return dict(bare_metal.size(host)) if host.bare_metal else demand(node)\n",
        "    return demand(node)\n",
        theme="metal",
    ),
    one(
        "bare metal takes any member",
        TRANSLATE,
        "    wanted |= {**confinement.asked(node), TYPE_LABEL: (node.type.value,)}\n",
        "    wanted |= confinement.asked(node)\n",
        Edit(
            TRANSLATE,
            "    return bare_metal.demand(asked) if node.type is MachineType.BARE_METAL else total((asked, more))\n",
            "    return total((asked, more))\n",
        ),
        theme="metal",
    ),
    one(
        "a machine is given to another project before it was cleaned",
        FLEET,
        '        return self.cleaning.served in ("", project) or self.wipe is Wipe.NONE\n',
        "        return True\n",
        theme="metal",
    ),
    one(
        "a machine that is being cleaned is given out",
        FLEET,
        "        return ready and self.cleaning.state is CleaningState.OPEN\n",
        "        return ready\n",
        Edit(
            "service.store.claims",
            "        schema.hosts.c.cleaning == CleaningState.OPEN.value,\n    )\n    .values(",
            "    )\n    .values(",
        ),
        theme="metal",
    ),
    one(
        "a machine whose cleaning failed counts as clean",
        STEPS,
        "    cleanings.put(connection, host, replace(host.cleaning, state=CleaningState.UNCLEAN, reason=reason, until=0), now)\n",
        "    cleanings.put(connection, host, Cleaning(count=count), now)\n",
        theme="metal",
    ),
    one(
        "what a seat was known by is forgotten with it",
        "service.store.seats",
        "        left_seats.keep(connection, row, clock.now(connection))\n",
        "",
        theme="metal",
    ),
    one(
        "what an order that came late brought back is not cleaned",
        "service.store.left_seats",
        "    if served and served != now:\n",
        "    if False:\n",
        theme="metal",
    ),
    one(
        "a machine counts as clean once it is off, whatever its guest said",
        ATTEMPT,
        "            return await self._stopped(monitor)\n",
        '            return await self._write(lambda c: steps.done(c, self._epoch, self._host_uuid, self._count, "off"))\n',
        theme="metal",
    ),
)
