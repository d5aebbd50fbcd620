#!/bin/sh
# Write requirements/*.txt from pyproject.toml and requirements/*.in: pinned, hashed, good for x86-64 and aarch64, Python 3.11 and newer.
# Versions already pinned stay; `packaging/lock.sh --upgrade` moves all of them. test.txt is written first and holds
# the others; the two without our packages stand alone.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}

# the one environment of pyproject.toml's [tool.uv]: said there, not on each line
where="platform_python_implementation == 'CPython' and sys_platform == 'linux'"

lock() {
    name=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-package edge-gateway \
        --custom-compile-command "make requirements" --output-file "requirements/$name.txt" "$@"
    sed -i -e "s/ ; $where / /" -e "s/ and $where / /" "requirements/$name.txt"
}

agent="--extra agent"
house="$agent --extra route-b --extra modbus"
pole="$agent --extra ble --extra modbus"
town="--extra aggregator"
demo="$house --extra ble --extra aggregator --extra simulators --extra demo"
held="--constraint requirements/test.txt"

# shellcheck disable=SC2086 # the variables are lists of words
{
    lock test pyproject.toml requirements/build.in requirements/test.in $demo "$@"
    lock demo pyproject.toml requirements/build.in $demo $held "$@"
    lock gateway-house pyproject.toml $house $held "$@"
    lock gateway-pole pyproject.toml $pole $held "$@"
    lock aggregator pyproject.toml $town $held "$@"
    lock package pyproject.toml $house --extra ble $town $held "$@"
    lock lock requirements/lock.in "$@"
    lock thingsboard requirements/thingsboard.in "$@"
}
