#!/bin/sh
# prepare.sh: makes secrets/ (passwords and tokens at random) and corral.toml, once; what is there stays.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
for name in database grafana admin.token scraper.token; do
    [ -s "secrets/$name" ] || head -c 24 /dev/urandom | od -An -vtx1 | tr -d ' \n' >"secrets/$name"
done
# Files that containers read under users of their own; the directory stays closed to this machine's others.
chmod 0644 secrets/database secrets/grafana secrets/scraper.token
printf 'PGPASSWORD=%s\n' "$(cat secrets/database)" >secrets/database.env
digest() { sha256sum <"secrets/$1" | cut -d ' ' -f 1; }
if [ ! -e corral.toml ]; then
    sed "s/@ADMIN@/$(digest admin.token)/; s/@SCRAPER@/$(digest scraper.token)/" corral.toml.in >corral.toml
    chmod 0644 corral.toml
fi
echo "docker compose up --detach, then http://127.0.0.1:8080/ with the token in secrets/admin.token"
