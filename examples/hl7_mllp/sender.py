"""
A synthetic sender: `python -m examples.hl7_mllp.sender` admits a patient, reports and moves.
"""

import asyncio
from types import TracebackType
from typing import Self

from examples.hl7_mllp import mllp


class Sender:
    """A connection to the listener; it sends a message and waits for the answer."""

    def __init__(self, *, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._answers = mllp.blocks(self._reader)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def send(self, message: bytes) -> bytes:
        """The acknowledgement of *message*."""
        self._writer.write(mllp.framed(message))
        await self._writer.drain()
        return await anext(self._answers)


def message(kind: str, control_id: int, *segments: str, charset: str = "UNICODE UTF-8") -> str:
    """A message of this *kind*, its segments ended by CR."""
    header = f"MSH|^~\\&|MON|ST MARY|LAB|ST MARY|20260301080000+0100||{kind}|{control_id}|P|2.5.1"
    header += f"||||||{charset}" if charset else ""
    return "".join(f"{segment}\r" for segment in (header, "PID|1||4711^^^HOSP^MR", *segments))


async def main() -> None:
    async with Sender(port=2575) as sender:
        for each in (
            message("ADT^A01", 1, "PV1|1|I|A1^101"),
            message("ORU^R01", 2, "OBR|1", "OBX|1|NM|15074-8^Glucose^LN||6.30|mmol/L|||||F"),
            message("ADT^A02", 3, "PV1|1|I|B2^7"),
        ):
            print((await sender.send(each.encode())).decode().replace("\r", "\n"))


if __name__ == "__main__":
    asyncio.run(main())
