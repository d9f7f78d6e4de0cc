#!/bin/sh
# Install pinned, hashed packages into .venv: `install.sh setup | worker | mongo | dev`. Safe to run again at any time.
#   setup   control plane + Kafka on this machine, no torch        worker   + torch
#   mongo   + MongoDB and S3                                       dev      + test and lint tools
set -eu
cd "$(dirname "$0")/../.."
level=$1
here=deploy/requirements

stop() {
    printf 'trainwright: %s\n' "$1" >&2
    exit 1
}

fits() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}

find_python() {
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if fits "$python"; then
            printf '%s' "$python"
            return
        fi
    done
    first=${PYTHON:-python3}
    version=$("$first" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo missing)
    stop "needs Python 3.11, 3.12 or 3.13, but $first is $version: install one of them, then run \`make setup PYTHON=/path/to/python3.12\`."
}

make_venv() {
    if [ -x .venv/bin/python ] && fits .venv/bin/python; then
        .venv/bin/python -c 'import pip' 2>/dev/null || .venv/bin/python -m ensurepip >/dev/null 2>&1 || stop ".venv has no pip: remove the folder .venv, then run the same make command again."
        return
    fi
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null || stop "$python cannot make virtual environments because its venv package is missing: on Debian or Ubuntu run \`apt-get install python3-venv\`, then the same make command again."
    echo "Making .venv with $("$python" -c 'import sys; print(sys.executable, sys.version.split()[0])')"
    "$python" -m venv --clear .venv || stop "could not make .venv here: see the lines above, then run the same make command again."
}

announce() {
    # Measured on Linux x86-64, nothing cached; what the local package cache holds is not fetched again.
    torch="PyTorch for the worker: on Linux, where it brings its CUDA libraries, 3.1 GB to fetch and 5.4 GB on disk; on macOS about a tenth"
    case $level in
        setup) echo "Will fetch Python packages and a Java runtime for Kafka: 130 MB to fetch, 0.4 GB on disk. Kafka itself (45 MB) follows at its first start." ;;
        worker) echo "Will fetch $torch." ;;
        mongo) echo "Will fetch the clients of MongoDB and S3: 5 MB." ;;
        dev) echo "Will fetch tools for tests and checks: 70 MB. If not here yet, also $torch." ;;
    esac
}

system_certificates() {
    # uv brings certificate authorities of its own; a machine that has a bundle may trust more of them (a company's proxy).
    for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
        if [ -e $bundle ]; then
            printf '%s' --system-certs
            return
        fi
    done
}

install() {
    # Not quiet: it says what is being fetched, with bars in a terminal; gigabytes may take minutes.
    # shellcheck disable=SC2046  # no word when there is no bundle
    .venv/bin/uv pip install $(system_certificates) --python .venv/bin/python --require-hashes --compile-bytecode "$@" ||
        stop "installing packages failed: see the lines above; when the network is back run the same make command again, what was fetched is kept."
}

announce
make_venv
if [ "$level" = setup ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $here/bootstrap.txt ||
        stop "pip could not install uv: see the lines above, then run the same make command again."
    install -r $here/base.txt -r $here/embedded.txt
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
    # An environment may forbid writing bytecode (PYTHONDONTWRITEBYTECODE); compileall still does, and starts get twice as fast.
    .venv/bin/python -m compileall -q libs services
else
    install -r "$here/$level.txt"
fi
