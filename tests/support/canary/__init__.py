"""
A deployment whose events hold random markers in every private field, and a search for them.

    markers      the markers of a run, and all forms in which they are found in bytes
    places       the bytes of each place where data may rest
    application  a consumer whose handlers do what must not show data
    producer     a program that records events out of a file
    program      relay or consumer with all loggers at DEBUG, and with spans in a file
    fleet        the processes on servers of their own, or on files
    scenario     what happens to the events before the search
"""
