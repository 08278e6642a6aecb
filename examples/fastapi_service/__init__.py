r"""
A service: FastAPI and SQLAlchemy, with migrations of its own, and a consumer of its events.

    export MQ_DATABASE_URL=sqlite:////tmp/service.db
    relay migrate                                             # the tables of the outbox
    alembic -c examples/fastapi_service/alembic.ini upgrade head        # those of the service
    uvicorn --factory examples.fastapi_service.app:create_app &
    relay run &                       # or in two further terminals
    WARD_URL=http://127.0.0.1:9000 consumer run examples.fastapi_service.handlers:ward &
    curl http://127.0.0.1:8000/heart-rates -H 'Idempotency-Key: 1' --json \
        '{"patient": "synthetic-1", "per_minute": 140, "measured_at": "2026-03-01T08:00:00Z"}'

    events        what happened: models that name their event types
    tables        the tables of the service
    app           the endpoint: a row and an event in one transaction
    handlers      the consumer: the latest heart rate of each patient, and alerts by HTTP
    migrations/   Alembic, whose autogenerate leaves the tables of the outbox alone
"""
