"""
Reads the probes of a process.
"""

import asyncio


async def get(port: int, path: str, *, status: int = 200) -> bytes:
    """The body at *path*, empty unless the answer has this *status*."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    first, _, rest = answer.partition(b"\r\n")
    return rest.partition(b"\r\n\r\n")[2] if f" {status} ".encode() in first else b""
