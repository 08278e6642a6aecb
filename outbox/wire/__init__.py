"""
Events as rows and as messages: conversions between values and bytes, without any I/O.

    envelope        `Envelope`: an event as it travels
    codec           event to row, row to envelope, envelope to message and back; the header names
    header_values   header values that anyone may have written, read safely
    compression     gzip bodies

May import `event`, `validation`, `payload` and `errors`; never settings, database or transports.
"""
