"""
`python -m tests.support.canary.program relay run`, for relay or consumer: with the loggers of all
libraries at DEBUG, and with the spans of the program and of its libraries in the file SPANS.
"""

import logging
import os
import runpy
import sys
from pathlib import Path

from opentelemetry import trace
from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from outbox.runtime import captured
from outbox.runtime.redacted_loggers import LIBRARIES

_capture = captured.capture


def capture_all(log_level: str, *, reports_failures: bool = True) -> None:
    _capture(log_level, reports_failures=reports_failures)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG)


def main() -> None:
    captured.capture = capture_all
    exporter = ConsoleSpanExporter(out=Path(os.environ["SPANS"]).open("a"))  # noqa: SIM115
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    for instrumentor in (AioPikaInstrumentor(), SQLAlchemyInstrumentor()):
        instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
