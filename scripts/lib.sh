# shellcheck shell=bash
# What the scripts share. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${RUNSINK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/runsink}
export root cache

# Versions of what tests need beyond Debian's packages.
export kafka_version=4.3.1
export log4j_version=2.25.3
export s3proxy_version=2.6.0
export versitygw_version=v1.8.0
export minio_version=v0.0.0-20260212201848-7aac2a2c5b7c
export python_packages="botocore==1.44.5 standardwebhooks==1.1.0 confluent-kafka==2.16.1 duckdb==2.0.0 cryptography==46.0.3 h2==4.2.0 cloudevents==2.2.0 jsonschema==4.26.0"
export helm_version=v3.18.6
export kubernetes_packages="kubernetes-validate==1.37.0"

export venv=$cache/venv kubernetes_venv=$cache/venv-kubernetes

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# explain ARGUMENT...: where the first one is --help, prints the comment at the head of the script, and ends.
explain() {
    case ${1:-} in -h | --help) ;; *) return 0 ;; esac
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit 0
}

# python_tests PROGRAM ARGUMENT...: becomes that program of tests/, run with the packages that the tests need.
python_tests() {
    [ -x "$venv/bin/python" ] || "$root/scripts/deps" --test
    CACHE=$cache exec "$venv/bin/python" -B -u "$root/tests/$1" "${@:2}"
}
