"""
Which of a patient's medications interact: a question to another service, and its answer.

    relay migrate
    relay run &
    consumer run examples.requests.answer:checker &
    python -m examples.requests.ask warfarin aspirin

`relay run` may be started before or after the others: the question waits in the outbox.

    messages    the question and the answer
    answer      the service that answers; what its handler returns is the reply
    ask         the service that asks; it stores its replies in its own process
"""
