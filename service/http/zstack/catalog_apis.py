"""The catalogue: model services and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.app.catalog import Catalog
from service.errors import NotFound
from service.http.zstack import fields, inventories, model_services, query
from service.http.zstack.calls import Call, Handler, each, every


class CatalogApis:
    """What is done with the catalogue."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.table: Mapping[str, Handler] = {
            "QueryModelService": self._query,
            "AddModelService": self._add,
            "UpdateModelService": self._update,
            "DeleteModelService": self._delete_one,
            "DeleteModelServices": self._delete_all,
            "QueryImage": self._query_images,
        }

    async def _query(self, call: Call) -> dict[str, Any]:
        found = [inventories.model_service(entry) async for entry in every(self._catalog.list_model_services)]
        return query.answer(call.query, found, fields.MODEL_SERVICE)

    async def _add(self, call: Call) -> dict[str, Any]:
        entry = await model_services.add(self._catalog, call.caller, call.arguments, call.job)
        return {"inventory": inventories.model_service(entry)}

    async def _update(self, call: Call) -> dict[str, Any]:
        entry = await model_services.update(self._catalog, call.caller, call.uuid(), call.arguments)
        return {"inventory": inventories.model_service(entry)}

    async def _delete_one(self, call: Call) -> dict[str, Any]:
        call.check_delete_mode()
        await self._delete(call, call.uuid())
        return {}

    async def _delete_all(self, call: Call) -> dict[str, Any]:
        call.check_delete_mode()

        async def delete(uuid: str) -> Mapping[str, Any]:
            await self._delete(call, uuid)
            return {}

        return await each(call, call.uuids("uuids", required=True), delete)

    async def _delete(self, call: Call, uuid: str) -> None:
        """What is not there is deleted."""
        try:
            await self._catalog.delete_model_service(call.caller, uuid)
        except NotFound:
            return

    async def _query_images(self, call: Call) -> dict[str, Any]:
        found = [inventories.image(image) async for image in every(self._catalog.list_images)]
        return query.answer(call.query, found, fields.IMAGE)
