"""
The scenarios of the original design documents, where no other test runs them.

The page *coming from another design* has a table of all rows, each with its tests.
"""
