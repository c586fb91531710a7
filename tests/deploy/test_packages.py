"""What is shipped besides the wheel: the Debian package, the container image, compose, the Helm chart.

Cheap checks look at the files. The slow ones (`make test-slow`) build the package, install, upgrade and remove it in a
fresh Debian 12 root, and start the image that is made from it; they need Debian's and Python's registries.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.config.file import load
from service.config.overlay import Overlay
from tests.deploy.debian_root import FIRST_RUNNING, SERVE, SIMULATED, UNDER_SYSTEMD, Root, needed, newer, run
from tests.support import ROOT

DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".cache/tools/packaging"
POSTGRESQL = {"url": "postgresql+psycopg://corral@database/corral", "passwordSecret": "pg"}
EVERYTHING: dict[str, Any] = {
    "database": POSTGRESQL,
    "tls": {"secretName": "tls", "clientCa": True},
    "secretsSecret": "secrets",
    "imagePullSecrets": [{"name": "pull"}],
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "control", "operator": "Exists"}],
    "podAnnotations": {"note": "a"},
    "serviceMonitor": {"enabled": True, "tokenSecret": "token"},
    "prometheusRule": {"enabled": True, "runbookBase": "https://git.example/"},
    "dashboard": {"enabled": True},
}
SMALL: dict[str, Any] = {"replicas": 1, "tls": {"insecure": True}}


def tools(program: str, *arguments: str | Path) -> str:
    """Run a module of the packaging tools with an interpreter that sees them alone. Skips where they are not here."""
    if not TOOLS.is_dir():
        pytest.skip("no packaging tools: `make dev` brings them")
    return run(sys.executable, "-c", program, *arguments, env={**os.environ, "PYTHONPATH": str(TOOLS)}, cwd="/")


RENDER = """
import json, sys
from helm_python.chart import Chart, lint
values = json.loads(sys.argv[2])
print(json.dumps([lint(sys.argv[1], values), Chart.load(sys.argv[1]).render(values, name="corral", namespace="apps")]))
"""


def rendered(values: dict[str, Any]) -> dict[str, str]:
    """File -> text, as Helm makes it; it has nothing to say against the chart."""
    told, files = json.loads(tools(RENDER, DEPLOY / "helm/corral", json.dumps(values)))
    assert told["errors"] == []
    return {name.rpartition("/")[2]: text for name, text in files.items()}


@pytest.mark.parametrize("values", [EVERYTHING, SMALL, {**SMALL, "database": POSTGRESQL, "replicas": 3}])
def test_helm_renders_what_kubernetes_takes(values: dict[str, Any], tmp_path: Path) -> None:
    files = {name: text for name, text in rendered(values).items() if name.endswith(".yaml")}
    documents = [d for text in files.values() for d in yaml.safe_load_all(text) if d]
    known = [d for d in documents if "monitoring.coreos.com" not in d["apiVersion"]]
    assert {"Secret", "Deployment", "Service"} <= {d["kind"] for d in known}
    manifest = tmp_path / "all.yaml"
    manifest.write_text(yaml.safe_dump_all(known))
    script = "import sys; from kubernetes_validate.__main__ import main; sys.exit(main())"
    assert "error" not in tools(script, "--strict", "-k", "1.31", manifest).lower()


def test_the_charts_configuration_is_one_that_the_service_takes(tmp_path: Path) -> None:
    for values in (SMALL, {**SMALL, "database": POSTGRESQL}):
        (secret,) = yaml.safe_load_all(rendered(values)["config.yaml"])
        path = tmp_path / "corral.toml"
        path.write_text(secret["stringData"]["corral.toml"])
        assert load(path).store_url == values.get("database", {"url": "sqlite:////var/lib/corral/corral.db"})["url"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"tls": {"insecure": True}}, "need database.url"),
        ({"replicas": 1}, "tls.secretName is needed"),
        ({**SMALL, "database": POSTGRESQL, "replicas": 2, "images": {"persistent": False}}, "images.persistent must"),
        ({**SMALL, "database": POSTGRESQL, "replicas": 2, "images": {"accessMode": "ReadWriteOnce"}}, "ReadWriteMany"),
        ({**SMALL, "images": {"size": "much"}}, "size"),
    ],
)
def test_helm_refuses_what_cannot_work(values: dict[str, Any], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        rendered(values)


def claims(values: dict[str, Any]) -> list[dict[str, Any]]:
    return list(filter(None, yaml.safe_load_all(rendered(values).get("images.yaml", ""))))


def image_volume(values: dict[str, Any]) -> dict[str, Any]:
    """The volume behind the directory that the service of the chart takes images from."""
    (deployment,) = yaml.safe_load_all(rendered(values)["deployment.yaml"])
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {one["name"]: one.get("value") for one in container["env"]}
    (mount,) = [m for m in container["volumeMounts"] if m["mountPath"] == given["CORRAL_CATALOG_IMAGE_DIRECTORY"]]
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    assert not mount.get("readOnly")
    return dict(volume)


def test_the_chart_keeps_images_on_a_claim_that_replicas_share_and_that_stays() -> None:
    several = {**SMALL, "database": POSTGRESQL, "replicas": 3, "images": {"storageClassName": "nfs", "size": "2Ti"}}
    (claim,) = claims(several)
    assert image_volume(several)["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert (claim["spec"]["accessModes"], claim["spec"]["storageClassName"]) == (["ReadWriteMany"], "nfs")
    assert claim["spec"]["resources"] == {"requests": {"storage": "2Ti"}}
    (alone,) = claims(SMALL)
    assert alone["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert "storageClassName" not in alone["spec"], "the cluster's default"
    mine = {**several, "images": {"existingClaim": "mine"}}
    assert claims(mine) == []
    assert image_volume(mine)["persistentVolumeClaim"] == {"claimName": "mine"}
    tried = {**SMALL, "images": {"persistent": False}}
    assert (claims(tried), image_volume(tried)["emptyDir"]) == ([], {})


def test_the_charts_image_directory_stands_over_the_file(tmp_path: Path) -> None:
    (secret,) = yaml.safe_load_all(rendered(SMALL)["config.yaml"])
    path = tmp_path / "corral.toml"
    path.write_text(secret["stringData"]["corral.toml"] + '\n[catalog]\nmax_upload_size = "1GiB"\n')
    config = load(path, Overlay({"CORRAL_CATALOG_IMAGE_DIRECTORY": "/var/lib/corral/images"}))
    assert (config.image_directory, config.max_upload_size) == (Path("/var/lib/corral/images"), 1 << 30)


def test_the_chart_has_the_rules_and_the_dashboard_of_the_repository() -> None:
    files = DEPLOY / "helm/corral/files"
    assert (files / "corral.rules.yml").read_bytes() == (DEPLOY / "prometheus/corral.rules.yml").read_bytes()
    assert (files / "corral.json").read_bytes() == (DEPLOY / "grafana/corral.json").read_bytes()
    text = rendered(EVERYTHING)["monitoring.yaml"]
    assert "runbook_url: https://git.example/deploy/RUNBOOKS.md#" in text


KEPT = """#!/bin/sh
for word; do printf '%s\\0' "$word"; done >"$0.$(ls "$0".* 2>/dev/null | wc -l)"
"""
"""A program that keeps what it is asked."""


def test_the_guides_lines_for_kubernetes_make_what_the_chart_asks_for(tmp_path: Path) -> None:
    guide = (ROOT / "deploy/INSTALL.md").read_text().partition("* **Kubernetes**")[2].partition("\n## ")[0]
    (lines,) = re.findall(r"(?:^ {6}.*\n)+", guide, re.MULTILINE)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("kubectl", "helm"):
        (programs / name).write_text(KEPT)
        (programs / name).chmod(0o755)
    run("bash", "-euc", textwrap.dedent(lines), cwd=tmp_path, env={"PATH": f"{programs}:{os.environ['PATH']}"})
    (asked,) = [path.read_text().split("\0")[:-1] for path in programs.glob("helm.*")]
    assert asked == ["install", "corral", "deploy/helm/corral", "-f", "values.yaml"]
    made = dict(secret_of(path.read_text().split("\0")[:-1]) for path in programs.glob("kubectl.*"))

    values = yaml.safe_load((tmp_path / "values.yaml").read_text())
    files = rendered(values)
    (deployment,) = yaml.safe_load_all(files["deployment.yaml"])
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (secret,) = yaml.safe_load_all(files["config.yaml"])
    wanted = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    from_secrets = [e["valueFrom"]["secretKeyRef"] for e in container["env"] if "valueFrom" in e]
    wanted |= {one["name"] for one in from_secrets}
    assert wanted - {secret["metadata"]["name"]} == made.keys()
    assert [made[one["name"]] for one in from_secrets] == [{one["key"]} for one in from_secrets]

    # The service takes the file, with what the secrets mount where it says.
    text = secret["stringData"]["corral.toml"]
    for name, keys, place in (
        ("corral-secrets", {"admin.token"}, "/etc/corral/secrets"),
        ("corral-tls", {"tls.crt", "tls.key"}, "/etc/corral/tls"),
    ):
        assert made[name] == keys
        (volume,) = [m["name"] for m in container["volumeMounts"] if m["mountPath"] == place]
        assert {"name": volume, "secret": {"secretName": name, "defaultMode": 0o400}} in pod["volumes"]
        mounted = tmp_path / name
        mounted.mkdir()
        for key in keys:
            (mounted / key).write_text((tmp_path / "admin.token").read_text())
        text = text.replace(place, str(mounted))
    (tmp_path / "corral.toml").write_text(text)
    config = load(tmp_path / "corral.toml")
    assert [(token.caller.principal, token.caller.role) for token in config.tokens] == [("admin", "admin")]
    assert config.store_url == values["database"]["url"]


def secret_of(words: list[str]) -> tuple[str, set[str]]:
    """The name and the keys of a secret that kubectl is asked to make."""
    assert words[:2] == ["create", "secret"]
    kind, name, *given = words[2:]
    if kind == "tls":
        assert sorted(word.partition("=")[0] for word in given) == ["--cert", "--key"]
        return name, {"tls.crt", "tls.key"}
    assert kind == "generic"
    return name, {word.split("=")[1] for word in given}


def test_hadolint_has_nothing_to_say() -> None:
    program = TOOLS / "bin/hadolint"
    if not program.is_file():
        pytest.skip("no packaging tools: `make dev` brings them")
    assert run(program, DEPLOY / "container/Containerfile") == ""


def made_image() -> str:
    """The name that `make image` gives to the image."""
    told = run("make", "-n", "-C", ROOT, "image", "BASE=")
    (name,) = re.findall(r"localhost/corral:\S+", told)
    return str(name)


def test_the_chart_takes_the_image_that_make_makes() -> None:
    assert f'image: "{made_image()}"' in rendered(SMALL)["deployment.yaml"]


def test_compose_mounts_what_is_there_and_what_prepare_makes(tmp_path: Path) -> None:
    for name in ("compose", "prometheus", "grafana"):
        shutil.copytree(DEPLOY / name, tmp_path / name)
    here = tmp_path / "compose"
    for _ in range(2):  # what is there stays
        run("sh", here / "prepare.sh")
        made = {path: path.read_bytes() for path in (here / "secrets").iterdir()}
    composed = yaml.safe_load((here / "compose.yaml").read_text())
    for service in composed["services"].values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert source in composed["volumes"] or (here / source).exists(), mount
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert set(service.get("secrets", ())) <= set(composed["secrets"])
        assert all((here / file).is_file() for file in service.get("env_file", ()))
    assert all((here / secret["file"]).is_file() for secret in composed["secrets"].values())
    assert len(made) == 5
    assert composed["services"]["corral"]["image"] == f"${{CORRAL_IMAGE:-{made_image()}}}"
    config = load(here / "corral.toml")
    assert [(t.caller.principal, t.caller.role) for t in config.tokens] == [
        ("admin", "admin"),
        ("prometheus", "scraper"),
    ]
    assert (here / "secrets").stat().st_mode & 0o077 == 0


def test_the_packages_configuration_is_one_that_the_service_takes(tmp_path: Path) -> None:
    path = tmp_path / "corral.toml"
    shutil.copy(DEPLOY / "debian/corral.toml", path)
    assert str(load(path).server.grpc) == "unix:/run/corral/grpc.sock"


def test_the_scripts_are_ones_that_a_shell_takes() -> None:
    for script in (*DEPLOY.glob("debian/*.sh"), *DEPLOY.glob("container/*.sh"), *DEPLOY.glob("compose/*.sh")):
        run("bash", "-n", script)
    for name in ("postinst", "postrm"):
        run("dash", "-n", DEPLOY / "debian" / name)


def test_the_guides_configuration_for_three_servers_is_one_that_the_service_takes(tmp_path: Path) -> None:
    (block,) = re.findall(r"<<END\n(.*?)\n    END\n", (ROOT / "deploy/INSTALL.md").read_text(), re.DOTALL)
    path = tmp_path / "corral.toml"
    path.write_text(re.sub(r"\$\(.*cut -c -64\)", "0" * 64, textwrap.dedent(block)))
    for name in ("server.pem", "server.key"):
        (tmp_path / name).touch()
    config = load(path)
    assert config.server.tls is not None
    assert config.server.tls.certificate == tmp_path / "server.pem"
    assert (len(config.hosts), len(config.zones), len(config.tokens)) == (1, 1, 1)


# --- slow: the package itself ---------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    """Taken away at the end: it is a hundred megabytes and more."""
    needed("mmdebstrap", "unshare")
    yield Root(tmp_path / "root")
    shutil.rmtree(tmp_path / "root")


@pytest.mark.slow
@pytest.mark.xdist_group("package")
@pytest.mark.timeout(3600)
def test_the_package_is_installed_upgraded_and_removed_in_a_fresh_debian(
    package: Path, root: Root, tmp_path: Path
) -> None:
    before = root.files()
    shutil.copy(package, root.directory / "tmp/corral.deb")
    started = time.monotonic()
    root.run("apt-get update -q && apt-get install -q -y --no-install-recommends /tmp/corral.deb", seconds=1200)
    installed = time.monotonic()
    assert "corral" in root.run("getent passwd corral")
    assert root.run("stat -c '%U:%G %a' /etc/corral /etc/corral/corral.toml /var/lib/corral").split("\n")[:3] == [
        "root:corral 750",
        "root:corral 640",
        "corral:corral 750",
    ]
    config = root.directory / "etc/corral/corral.toml"
    config.write_text(config.read_text() + SIMULATED)
    told = root.run(FIRST_RUNNING.replace("VERB", "deploy -f /tmp/request.json"))
    running = time.monotonic()
    assert "first: Running" in told
    print(f"\ninstalled in {installed - started:.1f} s, first Running {running - installed:.1f} s after that")

    if shutil.which("systemd-nspawn") and shutil.which("nsenter"):
        root.run("apt-get install -q -y --no-install-recommends systemd systemd-sysv")
        told = root.booted(UNDER_SYSTEMD)
        assert "second: Running" in told
        assert "active" in told.split("after the reload: ")[1]
        assert "was read again" in told

    # An upgrade keeps the configuration that was changed, and the database with its groups.
    shutil.copy(newer(package, tmp_path), root.directory / "tmp/newer.deb")
    root.run("apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold /tmp/newer.deb")
    assert SIMULATED in config.read_text()
    assert "99.0" in root.run("dpkg-query -W corral")
    assert "first" in root.run(FIRST_RUNNING.replace("VERB", "list"))

    root.run("apt-get remove -q -y corral")
    assert not (root.directory / "opt/corral").exists()
    assert config.exists()
    assert (root.directory / "var/lib/corral/corral.db").exists()
    root.run("apt-get purge -q -y corral; rm -rf /run/corral /tmp/*")
    assert root.files() <= before
    assert "corral" not in (root.directory / "etc/passwd").read_text()


@pytest.mark.slow
@pytest.mark.xdist_group("package")
@pytest.mark.timeout(3600)
def test_the_image_is_built_from_the_package_and_serves(package: Path, tmp_path: Path) -> None:
    needed("buildah", "mmdebstrap")
    storage = {
        "STORAGE_DRIVER": "vfs",
        "XDG_RUNTIME_DIR": str(tmp_path),
        "CONTAINERS_STORAGE_CONF": str(tmp_path / "conf"),
    }
    (tmp_path / "conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path / "graph"}"\nrunroot = "{tmp_path / "run"}"\n'
    )
    environment = {**os.environ, **storage}
    build = DEPLOY / "container/build.sh"
    run(build, package, "localhost/corral:test", "mmdebstrap", seconds=2400, env=environment)
    container = run("buildah", "from", "localhost/corral:test", env=environment).strip()
    try:
        inside = ("buildah", "run", "--isolation", "chroot", container, "--")
        assert run(*inside, "id", "-u", env=environment).strip() == "10001"
        asked = "import service.wiring, libvirt, psycopg, opentelemetry.sdk; print('whole')"
        assert run(*inside, "/opt/corral/bin/python", "-c", asked, env=environment, seconds=300).strip() == "whole"
        check = ("/opt/corral/bin/python", "-m", "service", "check-config", "--config", "/etc/corral/corral.toml")
        assert "1 zones" in run(*inside, *check, env=environment, seconds=300)
        serve = FIRST_RUNNING.replace(
            "install -d -o corral -g corral /run/corral", "cp /etc/corral/corral.toml /tmp/c.toml"
        )
        serve = serve.replace(SERVE, "/opt/corral/bin/python -m service serve --config /tmp/c.toml")
        serve = serve.replace("cd /var", f"cat >>/tmp/c.toml <<'EOF'\n{SIMULATED}EOF\ncd /var")
        told = run(
            *inside, "sh", "-c", serve.replace("VERB", "deploy -f /tmp/request.json"), env=environment, seconds=600
        )
        assert "first: Running" in told
    finally:
        run("buildah", "rm", container, env=environment)
        run("buildah", "rmi", "--all", "--force", env=environment, seconds=300)
