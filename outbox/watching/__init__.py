"""
Watching: copies of the messages that pass an exchange, for a person, while they pass.

    request   the choice of messages, and the person who sees their bodies
    watch     the copies, recorded in the audit log before their bodies are shown
    shown     a copy as a JSON object: metadata always, the rest only with bodies

May import `audit`, `dead_letters`, `transports`, `wire` and the files below them.
"""
