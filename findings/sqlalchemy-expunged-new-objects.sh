#!/usr/bin/env bash
# SQLAlchemy does not report each new object that leaves a session.
#
# Seen with SQLAlchemy 2.1.9, 2026-11. `expunge_all()` takes three new objects out of a session,
# and a program that counts them by the event `pending_to_transient` expects three. An object of
# which an attribute was set is reported; one without, as an application adds it if all columns
# have defaults, is reported only while something else holds it. Otherwise the object is collected
# in the middle of the call, and no event says that the session will not insert it any more.
#
# So a program that watches the new objects of a session has to hold them, as the guard of shared
# sessions does: it would take the effects of a message for written which are not.
#
# Needs Python 3.11 or newer. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check --quiet install sqlalchemy==2.1.9 2>/dev/null

"$folder/venv/bin/python" - <<'PYTHON'
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Visit(Base):
    __tablename__ = "visit"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[str] = mapped_column(default="now")


def reported(*, is_set: bool, is_held: bool) -> int:
    """How many of three new objects are reported when all are taken out."""
    gone = []
    with Session(sa.create_engine("sqlite://")) as session:
        sa.event.listen(session, "pending_to_transient", lambda _, each: gone.append(id(each)))
        held = []
        for _ in range(3):
            visit = Visit(at="noon") if is_set else Visit()
            session.add(visit)
            held += [visit] if is_held else []
            del visit
        assert len(session.new) == 3
        session.expunge_all()
        assert not session.new
    return len(gone)


found = {
    (is_set, is_held): reported(is_set=is_set, is_held=is_held)
    for is_set in (True, False)
    for is_held in (True, False)
}
print("SQLAlchemy", sa.__version__)
for (is_set, is_held), count in found.items():
    print(f"attribute set: {is_set!s:5} | held elsewhere: {is_held!s:5} | reported: {count} of 3")
assert found == {(True, True): 3, (True, False): 3, (False, True): 3, (False, False): 0}, found
PYTHON
