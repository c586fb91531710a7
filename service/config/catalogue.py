"""The images and catalogue entries of the configuration file, and what is wrong with them and their files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from service.config import schema
from service.config.sections import Sections, known
from service.domain import boot_files, environment, weights
from service.domain.catalog import Image, ModelService
from service.domain.presets import port_problems, ports_of

METAL_FORMAT = "corral-metal/1"
METAL_FILE = "metal.iso"


class Catalogue:
    """Makes them of the checked sections; problems go where those of the other sections go."""

    def __init__(self, sections: Sections) -> None:
        self._file = sections
        checked = sections.checked
        self.images = tuple(self._image(i, image) for i, image in enumerate(checked.images))

    def model_services(self) -> tuple[ModelService, ...]:
        """The entries, each with its image."""
        by_name = {image.name: image for image in self.images}
        return tuple(
            self._model_service(i, entry, by_name) for i, entry in enumerate(self._file.checked.model_services)
        )

    def file_problems(self) -> list[str]:
        """What is wrong with the files of images."""
        return [
            f"{self._file.at('images', index)}: {wrong}"
            for index, image in enumerate(self.images)
            for wrong in _file_problems(image)
        ]

    def check_guest(self, name: str) -> None:
        """The image that runs container images, by `catalog.container_guest`: it boots by a kernel."""
        images = {image.name: image for image in self.images}
        if not name or name in self._file.left_out.names("images"):
            return
        if name not in images:
            self._file.problems.append(f"catalog.container_guest: no image {name!r}; {known(images)}")
        elif not (images[name].kernel_path and images[name].initrd_path):
            told = f"image {name!r} has no kernel with an initial RAM disk"
            self._file.problems.append(f"catalog.container_guest: {told}")

    def _image(self, index: int, section: schema.ImageSection) -> Image:
        where = self._file.at("images", index)
        if section.manifest:
            if section.kernel or section.initrd or section.disk:
                self._file.problems.append(f"{where}.manifest: stands alone, without kernel, initrd and disk")
            return self._image_from_manifest(where, section)
        if not section.kernel and not section.disk:
            self._file.problems.append(f"{where}: needs manifest, kernel or disk")
        if section.initrd and not section.kernel:
            self._file.problems.append(f"{where}.initrd: needs a kernel")
        paths = {"kernel": section.kernel, "initrd": section.initrd, "disk": section.disk}
        for role in section.sha256:
            if not paths[role]:
                self._file.problems.append(f"{where}.sha256.{role}: the image has no {role}")
        return Image(
            name=section.name,
            kernel_path=self._file.path_text(section.kernel),
            initrd_path=self._file.path_text(section.initrd),
            kernel_arguments=section.kernel_arguments,
            disk_path=self._file.path_text(section.disk),
            disk_format=section.disk_format,
            sha256={str(role): digest for role, digest in section.sha256.items()},
            delivery=section.delivery,
            progress_channel=section.progress_channel,
        )

    def _image_from_manifest(self, where: str, section: schema.ImageSection) -> Image:
        """An image as `deploy/guest/build.py` leaves it: kernel, initramfs, their digests and the command line; or as
        `deploy/guest/metal.py` does: one file that bare metal boots."""
        path = self._file.path(section.manifest)
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told.get("format") == METAL_FORMAT:
                disk, sha256 = str(path.parent / METAL_FILE), {"disk": str(told["sha256"])}
                return Image(section.name, disk_path=disk, sha256=sha256, delivery="seed")
            kernel, initramfs = told["kernel"], told["initramfs"]
            digests = {"kernel": str(kernel["sha256"]), "initrd": str(initramfs["sha256"])}
            files = (path.parent / str(kernel["file"]), path.parent / str(initramfs["file"]))
            arguments = section.kernel_arguments or str(told["command_line"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            self._file.problems.append(
                f"{where}.manifest: {path} cannot be used ({type(problem).__name__}: {problem}); "
                "`make guest` builds the default guest"
            )
            return Image(name=section.name)
        return Image(
            name=section.name,
            kernel_path=str(files[0]),
            initrd_path=str(files[1]),
            kernel_arguments=arguments,
            sha256=digests,
            delivery=section.delivery,
            progress_channel=section.progress_channel,
        )

    def _model_service(
        self, index: int, section: schema.ModelServiceSection, images: Mapping[str, Image]
    ) -> ModelService:
        image = images.get(section.image)
        if image is None:
            if section.image not in self._file.left_out.names("images"):
                where = self._file.at("model_services", index)
                self._file.problems.append(f"{where}.image: no image {section.image!r}; {known(images)}")
            image = Image(name=section.image)
        self._check_environment(self._file.at("model_services", index), section.environment)
        if bool(section.canary_path) != bool(section.canary_expect):
            where = self._file.at("model_services", index)
            self._file.problems.append(f"{where}.canary_expect: canary_path and canary_expect belong together")
        if (section.readiness_kind == "command") != bool(section.readiness_command):
            where = self._file.at("model_services", index)
            told = 'belongs to readiness_kind = "command", which needs one'
            self._file.problems.append(f"{where}.readiness_command: {told}")
        if (section.readiness_kind == "serial") != bool(section.readiness_line.strip(" *")):
            where = self._file.at("model_services", index)
            told = 'belongs to readiness_kind = "serial", which needs one'
            self._file.problems.append(f"{where}.readiness_line: {told}")
        self._check_weights(self._file.at("model_services", index), section)
        ports = ports_of(section.framework, {str(role): port for role, port in section.ports.items()})
        self._file.tell(self._file.at("model_services", index), port_problems(section.framework, ports))
        values = section.model_dump(exclude={"image", "supported_metrics", "ports"})
        made = ModelService(image=image, supported_metrics=tuple(section.supported_metrics), ports=ports, **values)
        if made.weights_uri and not weights.starts(made):
            where = self._file.at("model_services", index)
            self._file.problems.append(f"{where}.weights_uri: weights {weights.NO_COMMAND}")
        return made

    def _check_weights(self, where: str, section: schema.ModelServiceSection) -> None:
        if bool(section.weights_uri) != bool(section.weights_sha256):
            self._file.problems.append(f"{where}.weights_sha256: weights_uri and weights_sha256 belong together")
        elif section.weights_uri and (wrong := weights.problem(section.weights_uri)):
            self._file.problems.append(f"{where}.weights_uri: {wrong}")

    def _check_environment(self, where: str, values: Mapping[str, str]) -> None:
        for name, wrong in environment.problems(values):
            self._file.problems.append(f"{where}.environment.{name}: {wrong}")
        if self._file.checked.secret_keys or "secret_keys" in self._file.left_out.entries:
            return  # it may be one that a project stores; each deploy asks
        named = {secret.name for secret in self._file.checked.secrets} | self._file.left_out.names("secrets")
        for name, secret in environment.unknown_secrets(values, named.__contains__):
            self._file.problems.append(f"{where}.environment.{name}: there is no secret {secret} in [[secrets]]")


def _file_problems(image: Image) -> Iterator[str]:
    """What RegisterImage would say of the image's files."""
    files = ((image.kernel_path, "kernel"), (image.initrd_path, "initrd"), (image.disk_path, image.disk_format))
    for name, declared in files:
        path = Path(name)
        if name and not path.is_file():
            yield f"no file {path}"
        elif name:
            try:
                with path.open("rb") as file:
                    wrong = boot_files.problem(file, path.stat().st_size, declared)
            except OSError as problem:
                wrong = f"cannot be read ({problem.strerror})"
            if wrong:
                yield f"{path} {wrong}"
