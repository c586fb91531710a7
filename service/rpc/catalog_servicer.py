"""The methods of `CatalogService`: check, translate, call the use case, translate back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

from corral.v1 import catalog_pb2, catalog_pb2_grpc

from service.app.catalog import Catalog
from service.app.imports import Imports
from service.app.uploads import Uploads
from service.contract import pages, validation
from service.contract.call import current_caller
from service.contract.convert import catalog as convert
from service.errors import CorralError, InvalidArgument

SERVICE = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name

_HEARD_OUT_BYTES, _HEARD_OUT_SECONDS = 1 << 20, 1.0


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Translates between the wire and `service.app.catalog`."""

    def __init__(self, catalog: Catalog, uploads: Uploads, imports: Imports) -> None:
        self._catalog = catalog
        self._uploads = uploads
        self._imports = imports

    async def CreateModelService(  # noqa: N802
        self, request: catalog_pb2.CreateModelServiceRequest, context: Any
    ) -> catalog_pb2.CreateModelServiceResponse:
        """Puts a model service into the catalogue."""
        validation.check(request)
        entry = await self._catalog.create_model_service(
            current_caller(), convert.new_model_service(request), validate_only=request.validate_only
        )
        return catalog_pb2.CreateModelServiceResponse(inventory=convert.model_service(entry, current_caller()))

    async def GetModelService(  # noqa: N802
        self, request: catalog_pb2.GetModelServiceRequest, context: Any
    ) -> catalog_pb2.GetModelServiceResponse:
        """One model service."""
        validation.check(request)
        entry = await self._catalog.get_model_service(request.uuid)
        return catalog_pb2.GetModelServiceResponse(inventory=convert.model_service(entry, current_caller()))

    async def ListModelServices(  # noqa: N802
        self, request: catalog_pb2.ListModelServicesRequest, context: Any
    ) -> catalog_pb2.ListModelServicesResponse:
        """A page of model services."""
        validation.check(request)
        page = await self._catalog.list_model_services(request.page_size, request.page_token)
        caller = current_caller()
        found, token = pages.fitting(page, lambda entry: convert.model_service(entry, caller))
        return catalog_pb2.ListModelServicesResponse(
            inventories=found,
            next_page_token=token,
        )

    async def UpdateModelService(  # noqa: N802
        self, request: catalog_pb2.UpdateModelServiceRequest, context: Any
    ) -> catalog_pb2.UpdateModelServiceResponse:
        """Changes a model service for groups that are made from now on."""
        validation.check(request)
        entry = await self._catalog.update_model_service(
            current_caller(),
            request.uuid,
            convert.model_service_change(request),
            request.etag,
            validate_only=request.validate_only,
        )
        return catalog_pb2.UpdateModelServiceResponse(inventory=convert.model_service(entry, current_caller()))

    async def DeleteModelService(  # noqa: N802
        self, request: catalog_pb2.DeleteModelServiceRequest, context: Any
    ) -> catalog_pb2.DeleteModelServiceResponse:
        """Removes a model service that no group uses."""
        validation.check(request)
        await self._catalog.delete_model_service(
            current_caller(), request.uuid, request.etag, validate_only=request.validate_only
        )
        return catalog_pb2.DeleteModelServiceResponse()

    async def RegisterImage(  # noqa: N802
        self, request: catalog_pb2.RegisterImageRequest, context: Any
    ) -> catalog_pb2.RegisterImageResponse:
        """Makes an image of the image store known."""
        validation.check(request)
        image = await self._catalog.register_image(
            current_caller(), convert.new_image(request), validate_only=request.validate_only
        )
        return catalog_pb2.RegisterImageResponse(inventory=convert.image(image))

    async def UploadImage(  # noqa: N802
        self, requests: AsyncIterator[catalog_pb2.UploadImageRequest], context: Any
    ) -> catalog_pb2.UploadImageResponse:
        """Takes an image's bytes, and makes the image known once all are here."""
        first = await anext(requests, None)
        if first is None:
            raise InvalidArgument.of("sha256", "is required: the stream has no message")
        try:
            validation.check(first)
            async with aclosing(_parts(first.data, requests)) as parts:
                done = await self._uploads.take(current_caller(), convert.new_upload(first), first.offset, parts)
        except CorralError:
            await _heard_out(requests)
            raise
        inventory = None if done.image is None else convert.image(done.image)
        return catalog_pb2.UploadImageResponse(inventory=inventory, received=done.received)

    async def GetImageUpload(  # noqa: N802
        self, request: catalog_pb2.GetImageUploadRequest, context: Any
    ) -> catalog_pb2.GetImageUploadResponse:
        """How much of an upload is here."""
        validation.check(request)
        return catalog_pb2.GetImageUploadResponse(received=await self._uploads.received(request.sha256))

    async def ImportImage(  # noqa: N802
        self, request: catalog_pb2.ImportImageRequest, context: Any
    ) -> AsyncGenerator[catalog_pb2.ImportImageResponse, None]:
        """Fetches an image's bytes, and makes the image known once all are here."""
        validation.check(request)
        async with aclosing(self._imports.fetch(current_caller(), convert.new_import(request))) as steps:
            async for step in steps:
                yield convert.import_step(step)

    async def GetImage(  # noqa: N802
        self, request: catalog_pb2.GetImageRequest, context: Any
    ) -> catalog_pb2.GetImageResponse:
        """One image."""
        validation.check(request)
        return catalog_pb2.GetImageResponse(inventory=convert.image(await self._catalog.get_image(request.uuid)))

    async def ListImages(  # noqa: N802
        self, request: catalog_pb2.ListImagesRequest, context: Any
    ) -> catalog_pb2.ListImagesResponse:
        """A page of images."""
        validation.check(request)
        page = await self._catalog.list_images(request.page_size, request.page_token)
        found, token = pages.fitting(page, convert.image)
        return catalog_pb2.ListImagesResponse(inventories=found, next_page_token=token)

    async def DeleteImage(  # noqa: N802
        self, request: catalog_pb2.DeleteImageRequest, context: Any
    ) -> catalog_pb2.DeleteImageResponse:
        """Forgets an image that no model service uses."""
        validation.check(request)
        await self._uploads.delete_image(
            current_caller(), request.uuid, request.etag, validate_only=request.validate_only
        )
        return catalog_pb2.DeleteImageResponse()


async def _parts(first: bytes, rest: AsyncIterator[catalog_pb2.UploadImageRequest]) -> AsyncGenerator[bytes, None]:
    """The bytes of each message. Raises InvalidArgument."""
    yield first
    async for message in rest:
        for field, _ in message.ListFields():
            if field.name != "data":
                raise InvalidArgument.of(field.name, "belongs into the first message alone")
        yield message.data


async def _heard_out(rest: AsyncIterator[catalog_pb2.UploadImageRequest]) -> None:
    """Read on for a moment before a refusal: gRPC's client for asyncio may tell one that still sends INTERNAL instead.
    The rest of a large image is not waited for."""
    left = _HEARD_OUT_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(_HEARD_OUT_SECONDS):
            async for message in rest:
                left -= len(message.data)
                if left <= 0:
                    return
