"""Secrets as messages: what is known of one beside its value."""

from __future__ import annotations

from corral.v1 import secret_pb2

from service.app.etags import etag_of
from service.app.secrets import NewSecret, Shown
from service.contract.convert.inventory import timestamp


def secret(shown: Shown) -> secret_pb2.Secret:
    """The inventory of a secret."""
    value = shown.secret
    return secret_pb2.Secret(
        uuid=value.uuid,
        name=value.name,
        project=value.project,
        key_name=value.sealed.key_name,
        readable=shown.readable,
        create_date=timestamp(value.created_at),
        last_op_date=timestamp(value.updated_at),
        etag=etag_of(value),
    )


def new_secret(request: secret_pb2.CreateSecretRequest) -> NewSecret:
    """The secret that a request asks for."""
    return NewSecret(request.name, request.value, request.resource_uuid, request.request_id)
