#!/usr/bin/env bash
# The instrumentation of SQLAlchemy installs itself beside SQLAlchemy 2.1, and then traces nothing.
#
# Seen with opentelemetry-instrumentation-sqlalchemy 0.66b1, opentelemetry-sdk 1.45.1 and SQLAlchemy
# 2.1.9, 2026-11. `SQLAlchemyInstrumentor().instrument()` returns as usual, raises nothing, and
# instruments nothing: an engine that is made afterwards runs its statements without a span. Its one
# sign is a record of logging, of the level ERROR, that names the versions in conflict. pip installs
# both without a word, because the range of versions is in an extra of the package, not in what it
# requires. With `instrument(skip_dep_check=True)` the same program traces, and works.
#
# One would guess otherwise: a method that is called to instrument does so or raises, and packages
# that pip installs together fit together. A service that has moved to 2.1 loses the spans of its
# database, and finds out when it needs them: traces still have all other spans.
#
# So a program asks `is_instrumented_by_opentelemetry` after the call, or tests that a statement
# has a span; and passes `skip_dep_check=True` as long as the package refuses 2.1.
#
# Needs Python 3.11 or newer. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install "sqlalchemy[asyncio]==2.1.9" \
  opentelemetry-sdk==1.45.1 opentelemetry-instrumentation-sqlalchemy==0.66b1 2>"$folder/pip" ||
  { echo "the packages are missing" >&2; exit 3; }
echo "pip says: $(grep -ci conflict "$folder/pip" || true) conflicts"

cat >"$folder/program.py" <<'PYTHON'
import logging
import sys

import sqlalchemy
from opentelemetry import trace
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

records = []
handler = logging.Handler()
handler.emit = records.append
logging.getLogger().addHandler(handler)

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)

instrumentor = SQLAlchemyInstrumentor()
instrumentor.instrument(**({"skip_dep_check": True} if "unchecked" in sys.argv else {}))
with sqlalchemy.create_engine("sqlite://").connect() as connection:
    connection.execute(sqlalchemy.text("SELECT 1"))

levels = sorted(record.levelname for record in records)
found = "spans" if spans.get_finished_spans() else "no span"
print(found, instrumentor.is_instrumented_by_opentelemetry, *levels)
PYTHON

checked=$(timeout 60 "$folder/venv/bin/python" "$folder/program.py")
unchecked=$(timeout 60 "$folder/venv/bin/python" "$folder/program.py" unchecked)
echo "instrument():                     $checked"
echo "instrument(skip_dep_check=True):  $unchecked"
[ "$checked" = "no span False ERROR" ] && [ "$unchecked" = "spans True" ] ||
  { echo "the behaviour has changed" >&2; exit 1; }
