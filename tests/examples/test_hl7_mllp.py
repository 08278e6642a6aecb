"""
HL7 v2 messages that are acknowledged are committed, and have one effect.
"""

import pytest
import sqlalchemy as sa

from examples.database import connect
from examples.hl7_mllp.handlers import hl7_consumer
from examples.hl7_mllp.header import Header
from examples.hl7_mllp.listener import listen, receive
from examples.hl7_mllp.message import field, parse
from examples.hl7_mllp.sender import Sender, message
from examples.hl7_mllp.tables import control_ids, metadata, observations, wards
from outbox.tables import outbox
from tests.examples.serving import database, serving

PV1 = "PV1|1|I|{}"
GLUCOSE = "OBX|1|NM|15074-8^Glucose^LN||6.30|mmol/L|||||F"
NOTE = "OBX|2|ST|8251-1^Comment^LN||Größe R\\T\\D|||||F"


def code(answer: bytes) -> tuple[str, str, str]:
    """The code, the control id and the error of an acknowledgement."""
    segments = [segment.split("|") for segment in answer.decode("latin-1").split("\r")]
    msa = segments[1]
    return msa[1], msa[2], segments[2][3] if segments[2][0] == "ERR" else ""


async def test_a_message_is_acknowledged_once_it_is_committed_and_has_one_effect(
    database_url, tmp_path
):
    sent = [
        message("ADT^A01", 1, PV1.format("A1^101")).encode(),
        message("ADT^A02", 2, PV1.format("B2^7")).encode(),
        # As devices send it: Latin-1 without saying so, CRLF, a message structure.
        message("ORU^R01^ORU_R01", 3, "OBR|1", GLUCOSE, NOTE, charset="")
        .replace("\r", "\r\n")
        .encode("latin-1"),
        message("ADT^A02", 4, PV1.format("C3")).encode(),
    ]
    async with database(database_url, metadata) as app:
        async with await listen(app.engine, port=0) as server:
            port = server.sockets[0].getsockname()[1]
            async with Sender(port=port) as sender:
                answers = [code(await sender.send(each)) for each in sent]
            async with Sender(port=port) as sender:  # which has lost the answers
                again = [code(await sender.send(each)) for each in sent]
        recorded = await app.rows(sa.select(outbox.c.idempotency_key, outbox.c.ordering_key))
        async with serving(hl7_consumer, database_url=database_url, directory=tmp_path):
            await app.settled(4)

        assert await app.rows(sa.select(wards)) == [("4711@HOSP", "C3")]
        columns = (observations.c.code, observations.c.value, observations.c.unit)
        assert await app.rows(sa.select(*columns).order_by(observations.c.position)) == [
            ("15074-8", "6.30", "mmol/L"),
            ("8251-1", "Größe R&D", ""),
        ]
        assert await app.reasons() == []
    assert answers == again == [("AA", str(number), "") for number in range(1, 5)]
    assert recorded == [(f"ST%20MARY/MON/{number}", "4711@HOSP") for number in range(1, 5)]


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ("", ("AR", "", "100")),
        ("PID|1||4711\r", ("AR", "", "100")),
        (message("ADT^A01", 8).replace("^~\\&", "^^\\&"), ("AR", "", "100")),
        (message("ADT^A01", 8).replace("|8|", "||"), ("AR", "", "101")),
        (message("ADT^A01", 8).replace("4711^^^HOSP^MR", ""), ("AR", "8", "101")),
        (message("ADT^A01", 8, charset="ISO IR87"), ("AR", "8", "103")),
        (message("ADT^A40", 8), ("AR", "8", "200")),
        (message("ACK", 8), ("AR", "8", "200")),
        (message("ADT^A01", 1, PV1.format("B2")), ("AR", "1", "205")),
    ],
)
async def test_a_message_that_must_not_be_sent_again_is_refused(sqlite_url, sent, answer):
    async with database(sqlite_url, metadata) as app:
        await receive(app.engine, message("ADT^A01", 1, PV1.format("A1")).encode())

        assert code(await receive(app.engine, sent.encode())) == answer

        for table in (outbox, control_ids):
            assert len(await app.rows(sa.select(table))) == 1


@pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning")  # of the library
def test_a_value_that_cannot_be_unescaped_is_stored_as_it_is_and_never_logged(caplog):
    sent = message("ADT^A01", 8, PV1.format("A1\\\\secret")).encode()

    assert field(parse(Header.of(sent), sent), "PV1", 3).startswith("A1")
    assert caplog.text == ""


async def test_a_message_that_cannot_be_committed_now_is_to_be_sent_again(
    clean_environment, tmp_path
):
    clean_environment.setenv("MQ_DATABASE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    engine = connect()

    assert code(await receive(engine, message("ADT^A01", 1).encode())) == ("AE", "1", "207")

    await engine.dispose()


def test_an_acknowledgement_goes_back_to_the_sender_in_its_separators():
    header = Header.of(b"MSH#*~\\&#MON#WARD#LAB#HOSP#20260301##ORU*R01#17#T#2.3\r")

    msh, msa, _ = header.acknowledgement("AA").decode().split("\r")

    assert msh.startswith("MSH#*~\\&#LAB#HOSP#MON#WARD#")
    assert msh.endswith("##ACK*R01*ACK#ack-17#T#2.3")
    assert msa == "MSA#AA#17"
