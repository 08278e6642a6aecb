"""
HL7 v2 over MLLP: a message is acknowledged once it is committed, as a row of the outbox.

    relay migrate && python -m examples.hl7_mllp.tables   # in a database of your own
    python -m examples.hl7_mllp.listener &      # on 127.0.0.1, port 2575
    relay run &                       # or in three further terminals
    consumer run examples.hl7_mllp.handlers:hl7_consumer &
    python -m examples.hl7_mllp.sender          # admit, report and move a synthetic patient

    mllp        blocks in a stream of bytes, and back
    header      the segment MSH, and the acknowledgement that answers it
    message     the parsed message: its patient, and its fields
    listener    commits each message, then sends AA; AE or AR if it cannot
    tables      control ids that were received, observations, wards of patients
    handlers    the rows of observations and of wards, in the order of each patient
    sender      a synthetic sender, for trying it

| the message | answer | the sender |
|---|---|---|
| is committed | AA | sends the next one |
| was committed before, byte by byte | AA | sends the next one; there is no second event |
| has the control id of another message | AR, 205 | asks a person: its counter has restarted |
| is unreadable, or has no patient or no handler | AR, 100 to 200 | sets it aside |
| cannot be committed now | AE, 207 | sends it again later |
| is larger than 1 MB, or no block | none | finds the connection closed |

MLLP has neither passwords nor encryption: listen on loopback behind a TLS proxy, or give
`asyncio.start_server` an SSL context that asks for certificates of clients.
"""
