"""
The parts of the command line that `relay` and `consumer` share.

    start                    settings, and the end of a command that cannot start
    console                  exit codes, tables and JSON
    check                    the results of `check`, for people and for programs
    version                  the option `--version`
    interruptible            run a command so that SIGINT and SIGTERM end it cleanly
    dead_letters             the commands `dead list`, `show`, `export`, `replay` and `drop`
    dead_letter_options      their options and filters
    dead_letter_operations   one run of `replay` or `drop`, with a progress bar and a summary
    dead_letter_view         how dead letters look on a terminal
    dead_letter_export       dead letters as lines of JSON
    watch, watch_view        the command `watch`, and how copies look on a terminal
    keys                     the commands `keys`: their options
    key_settings             what they need: settings, databases, who runs them and why
    key_making               `keys init`
    key_commands             `keys status`, `rotate`, `rewrap` and `retire`
    key_view                 how keys look on a terminal, and as JSON
    plaintext                `keys require` and `allow-plaintext`
    contract_options         the options of AsyncAPI documents
    process_options          options of `consumer run`
    adoption                 `topology --adopt`: another exchange or queue for a source

May import every other package of `outbox`; none of them imports this one.
Only here, in `*/cli.py`, in the two `status_view.py`, and in the modules `view` and `screen` of
`relay/monitor/` may `typer` and `rich` be imported.
"""
