"""The methods of `SecretService`: check, translate, call the use case, translate back."""

from __future__ import annotations

from typing import Any

from corral.v1 import secret_pb2, secret_pb2_grpc

from service.app.secrets import StoredSecrets
from service.contract import pages, validation
from service.contract.call import current_caller
from service.contract.convert import secrets as convert


class SecretServicer(secret_pb2_grpc.SecretServiceServicer):
    """Translates between the wire and `service.app.secrets`. Values go in, and are in no answer."""

    def __init__(self, secrets: StoredSecrets) -> None:
        self._secrets = secrets

    async def CreateSecret(  # noqa: N802
        self, request: secret_pb2.CreateSecretRequest, context: Any
    ) -> secret_pb2.CreateSecretResponse:
        """Keeps a value under a name."""
        validation.check(request)
        made = await self._secrets.create(
            current_caller(), convert.new_secret(request), validate_only=request.validate_only
        )
        return secret_pb2.CreateSecretResponse(inventory=convert.secret(made))

    async def GetSecret(  # noqa: N802
        self, request: secret_pb2.GetSecretRequest, context: Any
    ) -> secret_pb2.GetSecretResponse:
        """One secret."""
        validation.check(request)
        found = await self._secrets.get(current_caller(), request.uuid)
        return secret_pb2.GetSecretResponse(inventory=convert.secret(found))

    async def ListSecrets(  # noqa: N802
        self, request: secret_pb2.ListSecretsRequest, context: Any
    ) -> secret_pb2.ListSecretsResponse:
        """A page of secrets."""
        validation.check(request)
        page = await self._secrets.list(current_caller(), request.name, request.page_size, request.page_token)
        found, token = pages.fitting(page, convert.secret)
        return secret_pb2.ListSecretsResponse(inventories=found, next_page_token=token)

    async def RotateSecret(  # noqa: N802
        self, request: secret_pb2.RotateSecretRequest, context: Any
    ) -> secret_pb2.RotateSecretResponse:
        """Gives a secret another value."""
        validation.check(request)
        changed = await self._secrets.rotate(
            current_caller(), request.uuid, request.value, request.etag, validate_only=request.validate_only
        )
        return secret_pb2.RotateSecretResponse(inventory=convert.secret(changed))

    async def DeleteSecret(  # noqa: N802
        self, request: secret_pb2.DeleteSecretRequest, context: Any
    ) -> secret_pb2.DeleteSecretResponse:
        """Forgets a secret that no group uses."""
        validation.check(request)
        await self._secrets.delete(current_caller(), request.uuid, request.etag, validate_only=request.validate_only)
        return secret_pb2.DeleteSecretResponse()
