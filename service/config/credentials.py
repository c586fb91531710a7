"""The sections by which hosts and their BMCs are reached and logged in to."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.config.values import FileOfCredential, Line, Name, host_text

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)
"""Of every table of the file: no unknown keys, no conversions but the stated ones."""


class _Table(BaseModel):
    model_config = STRICT


class BmcSection(_Table):
    """[hosts.bmc]: by what a hypervisor's power is switched, and who may have it switched off."""

    address: Annotated[str, AfterValidator(host_text)]
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    username: Line
    password_file: FileOfCredential
    ca_file: FileOfCredential = ""
    fingerprint: Line = ""
    system: Line = ""
    fencing: Literal["off", "manual", "dry", "auto"] = "manual"


class CredentialSection(_Table):
    """[[credentials]]: what `AddHost` names to log in to a hypervisor by ssh, or to a BMC: a file of this machine that
    holds a private key, or a password; with a password, `ca_file`: who signs the BMC's certificate."""

    name: Name
    ssh_key: FileOfCredential = ""
    password_file: FileOfCredential = ""
    ca_file: FileOfCredential = ""

    @model_validator(mode="after")
    def _has_one_file(self) -> Self:
        if bool(self.ssh_key) == bool(self.password_file) or (self.ssh_key and self.ca_file):
            raise ValueError("name either an ssh_key, or a password_file with or without a ca_file")
        return self

    @property
    def options(self) -> dict[str, str]:
        """The host's option that it stands for."""
        files = {name: getattr(self, name) for name in ("ssh_key", "password_file", "ca_file")}
        return {name: file for name, file in files.items() if file}
