#!/bin/sh
# The main job, end to end: a throw-away daemon, real jobs, what they printed, what became of them.
# Run it with `make demo`; with queuectl installed, `sh docs/demo.sh` does the same.
set -eu

place=$(mktemp -d)
export QUEUECTL_STATE_DIR="$place/state" QUEUECTL_SOCKET="$place/queuectl.sock"
cleanup() {
    queuectl cancel --all >/dev/null 2>&1 || true
    queuectl daemon stop >/dev/null 2>&1 || true
    rm -rf "$place"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
cd "$place"

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
# Run a command and show it as one would type it: words with blanks in quotes.
run() {
    line=
    for word; do
        case $word in
            *[!A-Za-z0-9_./:=-]*) line="$line '$word'" ;;
            *) line="$line $word" ;;
        esac
    done
    say "${line# }"
    "$@"
}

cat >hello.c <<'C'
#include <stdio.h>
int main(void) { puts("hello from a compiled job"); return 0; }
C

run queuectl config set backoff-base 1.2
run queuectl enqueue --id compile "cc -O2 -o hello hello.c && ./hello"
run queuectl enqueue --id archive --queue heavy "tar -czf headers.tgz -C /usr/include . && sha256sum headers.tgz"
run queuectl enqueue --id flaky --max-retries 2 'test -e ready || { touch ready; echo "not ready yet" >&2; exit 1; }; echo ready'
run queuectl enqueue --id broken --max-retries 1 "no-such-command --version"
run queuectl enqueue --id tonight --delay 8h -- echo "good night"
say 'seq 200 jobs | queuectl enqueue -q -f - | tail -n 1'
seq 200 | sed 's/.*/{"command": "test $((& % 7)) -ge 0", "queue": "short"}/' | queuectl enqueue -q -f - | tail -n 1
run queuectl wait --timeout 60s compile archive flaky
say queuectl wait --timeout 60s broken
queuectl wait --timeout 60s broken || echo "exit code $?: the job failed for good"
run queuectl logs compile
run queuectl logs flaky
run queuectl show flaky
run queuectl dlq list
say 'kill -9 the daemon while a job runs; the job goes on, and its result is there afterwards'
queuectl enqueue --id survivor "sleep 1; echo I outlived the daemon"
until queuectl list --state processing | grep -q survivor; do sleep 0.05; done
kill -9 "$(sed -n 's/.*"pid":\([0-9]*\).*"listening".*/\1/p' "$QUEUECTL_STATE_DIR/queuectld.log" | tail -n 1)"
run queuectl wait survivor
run queuectl logs survivor
run queuectl status
