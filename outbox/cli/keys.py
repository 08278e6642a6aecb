"""
The commands `relay keys`: keys as an operator handles them.

Their work is in `key_commands`, which needs the extra `encryption`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from outbox.cli.console import AsJson
from outbox.cli.dead_letter_options import By, with_filters
from outbox.cli.key_settings import KeySettings
from outbox.extras import packages_of

EXIT_CODES = (
    "Exit status: 0 done, 1 a key is unknown or too old or rows were left, 2 bad options or "
    "settings, 3 database or source of keys unreachable."
)

Source = Annotated[
    str | None,
    typer.Argument(
        metavar="[FILE|URL]",
        help="A new file, or a key database; MQ_ENCRYPTION_KEYS by default, which hides the"
        " password of a URL.",
    ),
]
Because = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Why you do this; stored in the table audit_log. Required."),
]
KeyId = Annotated[str, typer.Argument(metavar="KEYID", help="The key, as `status` shows it.")]
Subjects = Annotated[
    bool,
    typer.Option(
        "--subjects", help="Only the tables for keys of persons, in MQ_SUBJECT_KEYS_URL."
    ),
]
MaxAge = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="Exit with 1 if the current key is older, as in 90d."),
]
ActiveIn = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="When producers begin to use the key; 1h by default, in which every host gets it.",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="KEYID", help="Only rows of this key; of all old ones by default."
    ),
]
ReplacedFor = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="How long ago another key must have replaced it, as in 7d, the default: as long as"
        " queues keep messages.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Also if rows need the key, which are lost then.")
]


OpenSettings = Callable[[], KeySettings]
"""Returns the settings; ends the process with exit code 2 if they are invalid."""


def app(open_settings: OpenSettings) -> typer.Typer:
    """Return the sub-command `keys`."""
    commands = KeyCommands(open_settings)
    made = typer.Typer(
        name="keys",
        help="Make, watch and rotate keys, and let the outbox refuse plaintext.",
        epilog="See the page Rotate keys of the documentation. " + EXIT_CODES,
        no_args_is_help=True,
    )
    named: dict[str, Callable[..., None]] = {
        "init": commands.init,
        "status": commands.status,
        "rotate": commands.rotate,
        "rewrap": commands.rewrap,
        "retire": commands.retire,
        "require": commands.require,
        "allow-plaintext": commands.allow_plaintext,
    }
    for name, command in named.items():
        made.command(name)(with_filters(command, without=()))
    return made


class KeyCommands:
    """The commands on the keys of the settings that *open_settings* returns."""

    def __init__(self, open_settings: OpenSettings) -> None:
        self._open = open_settings

    def init(self, *, source: Source = None, subjects: Subjects = False) -> None:
        """Make a first key and the digest key: in a new file, or in a key database."""
        with _encryption():
            from outbox.cli import key_making  # noqa: PLC0415 - cryptography is an extra
        key_making.init(source, self._open, subjects=subjects)

    def status(self, *, max_age: MaxAge = None, as_json: AsJson = False) -> None:
        """Show keys, how many rows need each, and how many rows are plain."""
        with _encryption():
            from outbox.cli import key_commands  # noqa: PLC0415
        key_commands.status(self._open(), max_age=max_age, as_json=as_json)

    def rotate(
        self, *, active_in: ActiveIn = "1h", because: Because = None, by: By = None
    ) -> None:
        """Add a key, which producers begin to use later; old ones go on decrypting."""
        with _encryption():
            from outbox.cli import key_commands  # noqa: PLC0415
        key_commands.rotate(self._open(), active_in=active_in, because=because, by=by)

    def rewrap(self, *, only: From = None, because: Because = None, by: By = None) -> None:
        """Give waiting rows, and keys of persons, the current key; no body is decrypted."""
        with _encryption():
            from outbox.cli import key_commands  # noqa: PLC0415
        key_commands.rewrap(self._open(), only=only, because=because, by=by)

    def retire(
        self,
        *,
        key_id: KeyId,
        replaced_for: ReplacedFor = None,
        force: Force = False,
        because: Because = None,
        by: By = None,
    ) -> None:
        """Remove an old key, if no row needs it."""
        with _encryption():
            from outbox.cli import key_commands  # noqa: PLC0415
        key_commands.retire(
            self._open(), key_id, replaced_for=replaced_for, force=force, because=because, by=by
        )

    def require(self, *, because: Because = None, by: By = None) -> None:
        """Let the outbox refuse plaintext, whatever program inserts it."""
        self._plaintext(refuse=True, because=because, by=by)

    def allow_plaintext(self, *, because: Because = None, by: By = None) -> None:
        """Let the outbox accept plaintext again."""
        self._plaintext(refuse=False, because=because, by=by)

    def _plaintext(self, *, refuse: bool, because: str | None, by: str | None) -> None:
        from outbox.cli import plaintext  # noqa: PLC0415 - only these two commands need it

        plaintext.change(self._open(), refuse=refuse, because=because, by=by)


@contextmanager
def _encryption() -> Iterator[None]:
    with packages_of("relay keys: encryption", extra="encryption"):
        yield
