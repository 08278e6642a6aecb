"""
The contract of a consumer: an AsyncAPI document, and what of a stored one is no longer kept.

    schemas      JSON Schemas of payloads, from the handlers' annotations
    document     the AsyncAPI document of a consumer and of the events that it sends
    service      the service around it: its version, and the models of the events that it sends
    comparison   two documents: which events and payloads a consumer can no longer read
    alternatives a schema without references, as the list of its alternatives
    narrowing    two schemas: what the new one no longer accepts
    keywords     two schemas of one type, keyword by keyword
    files        documents in files
"""
