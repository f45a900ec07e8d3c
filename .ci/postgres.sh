#!/bin/sh
# A private PostgreSQL server for tests, on loopback, with nothing in it worth keeping.
#
#   .ci/postgres.sh start    starts it (installing the Debian package if there is none); prints its URL
#   .ci/postgres.sh stop     stops it and deletes its files
#   .ci/postgres.sh kill     ends it as a crash would; its files stay
#   .ci/postgres.sh again    starts it on the files that a crash has left
#
# Tests find it by MYELIN_TEST_POSTGRES:
#   export MYELIN_TEST_POSTGRES="$(.ci/postgres.sh start)"
#
# MYELIN_POSTGRES_DIR and MYELIN_POSTGRES_PORT move it elsewhere.
set -eu

dir=${MYELIN_POSTGRES_DIR:-/tmp/myelin-postgres-$(id -u)}
port=${MYELIN_POSTGRES_PORT:-55432}
url="postgres://myelin:myelin@127.0.0.1:$port/postgres"

programs() {
    for candidate in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV); do
        if [ -x "$candidate/initdb" ]; then
            echo "$candidate"
            return
        fi
    done
    if command -v initdb >/dev/null; then
        dirname "$(command -v initdb)"
    fi
}

# The server refuses to run as root.
unprivileged() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups env HOME="$dir" "$@"
    else
        "$@"
    fi
}

start() {
    bin=$(programs)
    if [ -z "$bin" ]; then
        sudo=
        [ "$(id -u)" = 0 ] || sudo=sudo
        # Without the cluster that the package would start by itself.
        $sudo mkdir -p /etc/postgresql-common
        [ -e /etc/postgresql-common/createcluster.conf ] ||
            echo 'create_main_cluster = false' | $sudo tee /etc/postgresql-common/createcluster.conf >&2
        { $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends postgresql; } >&2
        bin=$(programs)
    fi
    if [ -e "$dir/data/postmaster.pid" ] && unprivileged "$bin/pg_ctl" -D "$dir/data" status >/dev/null; then
        echo "$url"
        return
    fi
    rm -rf "$dir"
    mkdir -p "$dir"
    chmod 755 "$dir"
    echo myelin >"$dir/password"
    chmod 644 "$dir/password"
    if [ "$(id -u)" = 0 ]; then
        chown postgres:postgres "$dir"
    fi
    # `C`: text sorts by its bytes, as it does in SQLite. No fsync: these tests are not about disks.
    unprivileged "$bin/initdb" -D "$dir/data" -U myelin --pwfile="$dir/password" \
        --auth=scram-sha-256 --encoding=UTF8 --locale=C >"$dir/initdb.log" 2>&1 ||
        { cat "$dir/initdb.log" >&2; exit 1; }
    again
    echo "$url"
}

again() {
    bin=$(programs)
    unprivileged "$bin/pg_ctl" -D "$dir/data" -l "$dir/data/log" -w -o "-p $port -k $dir \
        -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=400" start >&2
}

# At once: its processes have no time to finish anything.
kill_it() {
    bin=$(programs)
    unprivileged "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >&2
}

stop() {
    if [ -n "$(programs)" ] && [ -e "$dir/data/postmaster.pid" ]; then
        kill_it
    fi
    rm -rf "$dir"
}

case ${1:-} in
start) start ;;
stop) stop ;;
kill) kill_it ;;
again) again ;;
*)
    echo "usage: $0 start|stop|kill|again" >&2
    exit 2
    ;;
esac
