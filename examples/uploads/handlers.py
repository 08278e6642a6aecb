"""
Reads the files of the events: `consumer run examples.uploads.handlers:files`.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from consumer import Consumer, Message, Reject
from examples.uploads.contents import READERS, Unreadable
from examples.uploads.directory import Directory, KeyOutsideDirectory, configured, sha256
from examples.uploads.stored_file import StoredFile
from examples.uploads.tables import contents


@asynccontextmanager
async def storage() -> AsyncGenerator[Directory, None]:
    yield configured()


files = Consumer("files", bindings=["upload.#"], lifespan=storage)


@files.on(StoredFile)
async def read(message: Message[StoredFile], session: AsyncSession, directory: Directory) -> None:
    """Store the metadata of the file; its content was checked through the same open file."""
    file = message.payload
    try:
        found = await asyncio.to_thread(checked_metadata, directory, file)
    except KeyOutsideDirectory:
        raise Reject("key_outside_directory") from None
    except Unreadable:
        raise Reject("file_unreadable") from None
    row = {"key": file.key, "sha256": file.sha256, "metadata": found}
    await session.execute(sa.insert(contents).values(row))


def checked_metadata(directory: Directory, file: StoredFile) -> dict[str, Any]:
    """Raises Reject if the digest of the file is not the one that was registered."""
    with directory.open(file.key) as opened:
        if sha256(opened) != file.sha256:
            raise Reject("digest_differs")
        opened.seek(0)
        return READERS[file.media_type](opened)
