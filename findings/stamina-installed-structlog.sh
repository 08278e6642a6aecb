#!/usr/bin/env bash
# stamina writes the arguments of a repeated call to stdout as soon as structlog is installed.
#
# Seen with stamina 26.1.0 and structlog 26.1.0, 2026-11. An application logs by Python's logging,
# and repeats calls with `@stamina.retry`. Without structlog each repetition is a record of the
# logger "stamina": its text is "stamina.retry_scheduled", the arguments are in `extra`, which
# usual formats do not show, and a level of CRITICAL silences it. Once structlog can be imported,
# also if only another package needs it, and nothing configures it, the same program prints the
# repr of each argument, the values of keywords and the text of the error to stdout. Neither levels
# nor handlers of logging apply, and the name "stamina" is not in the line.
#
# One would guess otherwise: an installed package that the program does not import changes nothing,
# and the settings of logging that held yesterday hold today. The manual does say which of the two
# is taken by default, but not that the arguments then become visible. An argument of a call that
# sends a patient's data is that data; and a program whose stdout is its result has a line in it.
#
# So an application that has both sets the hook itself, at its start:
# `stamina.instrumentation.set_on_retry_hooks([stamina.instrumentation.LoggingOnRetryHook])`.
# Where a format writes `extra`, as many for JSON do, it sets a hook that logs no arguments.
#
# Needs Python 3.11 or newer. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
install() {
  "$folder/venv/bin/pip" --disable-pip-version-check --quiet install "$@" 2>/dev/null ||
    { echo "the packages are missing" >&2; exit 3; }
}

cat >"$folder/program.py" <<'PYTHON'
import logging
import sys

import stamina

if "hook" in sys.argv:
    stamina.instrumentation.set_on_retry_hooks([stamina.instrumentation.LoggingOnRetryHook])
logging.basicConfig(stream=sys.stderr)
if "silent" in sys.argv:
    logging.getLogger("stamina").setLevel(logging.CRITICAL)


@stamina.retry(on=ConnectionError, attempts=2, wait_initial=0.01, wait_jitter=0)
def send(patient, *, diagnosis):
    raise ConnectionError("no route")


try:
    send("Jane Doe", diagnosis="J45.9")
except ConnectionError:
    pass
PYTHON

run() {
  timeout 60 "$folder/venv/bin/python" "$folder/program.py" "$@" >"$folder/out" 2>"$folder/err"
  printf 'stdout: %s\nstderr: %s\n' "$(cat "$folder/out")" "$(cat "$folder/err")"
}
expect() { # a file, and its lines, which "" means none of
  [ "$(cat "$folder/$1")" = "$2" ] || { echo "unexpected $1" >&2; exit 1; }
}
record="WARNING:stamina:stamina.retry_scheduled"

install stamina==26.1.0
echo "stamina 26.1.0, without structlog"
run; expect out ""; expect err "$record"
run silent; expect out ""; expect err ""

install structlog==26.1.0
echo "with structlog 26.1.0 installed"
run silent; expect err ""
for shown in "Jane Doe" "J45.9" "no route"; do
  grep -qF "$shown" "$folder/out" || { echo "stdout has no '$shown'" >&2; exit 1; }
done
echo "with the hook for logging"
run hook; expect out ""; expect err "$record"
run hook silent; expect out ""; expect err ""
