"""
Events as rows and as messages: conversions between values and bytes, without any I/O.

    envelope      `Envelope`: an event in transit
    row_codec     event to row, row to envelope
    codec         envelope to message and back
    row_message   row to message, as the relay makes them
    foreign       messages that follow the conventions of other publishers
    cloudevents   CloudEvents, read; and written by `cloudevents_writer`
    headers       the names of the headers, and `Headers`, which parses them safely
    compression   gzip bodies

May import `event`, `validation`, `payload` and `errors`; never settings, database or transports.
"""
