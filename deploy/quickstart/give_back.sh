# Sourced by scripts that may run by sudo, at the checkout's top: what root makes in it becomes its owner's again.
give_back() {
    [ -n "${SUDO_UID:-}" ] || return 0
    local owner=$SUDO_UID:${SUDO_GID:-$SUDO_UID} made
    for made in .venv .cache .hypothesis .pytest_cache var corral.egg-info; do
        [ ! -e "$made" ] || chown -R "$owner" "$made"
    done
    find deploy placement protos service tests -user 0 -exec chown "$owner" {} +
}
