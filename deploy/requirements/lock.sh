#!/bin/sh
# Regenerate the pinned, hashed requirement files from pyproject.toml. Known pins stay; `UPGRADE=1` moves them.
# dev.txt holds everything and is resolved first; the others are cut from it, so every file agrees on versions.
set -eu
cd "$(dirname "$0")/../.."
uv=${UV:-.venv/bin/uv}
here=deploy/requirements

compile() {
    out=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --no-emit-index-url --no-emit-find-links pyproject.toml --output-file "$here/$out" "$@"
}

compile dev.txt --all-extras --group bootstrap ${UPGRADE:+--upgrade}
compile base.txt --constraint $here/dev.txt
compile embedded.txt --extra embedded --constraint $here/dev.txt
compile worker.txt --extra worker --constraint $here/dev.txt
compile mongo.txt --extra mongo --constraint $here/dev.txt
"$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --no-emit-index-url --no-emit-find-links --group bootstrap --constraint $here/dev.txt \
    --output-file $here/bootstrap.txt
