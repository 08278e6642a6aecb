FROM python:3.13-slim AS build
WORKDIR /src
# .dockerignore admits only the sources of the wheel, and the examples.
COPY . .
# Every package has a hash in a lock, the build backend too: nothing is fetched that was not tested.
RUN python -m venv /build \
 && /build/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements/build.txt \
 && /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements/runtime.txt \
 && /venv/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && /venv/bin/pip check

FROM python:3.13-slim
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Without settings, the processes create their SQLite files in the working directory.
RUN useradd --system --uid 10001 --home-dir /data --create-home outbox
COPY --from=build /venv /venv
COPY examples /app/examples
USER 10001
WORKDIR /data
CMD ["relay", "run"]
