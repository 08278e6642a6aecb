"""
A directory of Avro and DICOM files, each registered once by its key and SHA-256.

    relay migrate && python -m examples.uploads.tables    # in a database of your own
    export UPLOADS_DIRECTORY=/tmp/uploads
    python -m examples.uploads.samples          # write two synthetic files
    python -m examples.uploads.scan             # and again, and two at once: two events
    relay run &                       # or in two further terminals
    consumer run examples.uploads.handlers:files

    stored_file   the event: a file by reference, which stays where it is, however large
    directory     the files of a directory, their digests, and the file of a key
    scan          registers each file and records its event, in one transaction
    tables        files that are registered, and what was read of them
    handlers      opens the file, compares the digest, and reads the metadata
    contents      metadata of Avro and DICOM files, without the data and without persons
    samples       synthetic files

| the file | the handler |
|---|---|
| has the digest that was registered | stores its metadata |
| has another digest | rejects the message: `digest_differs` |
| is no readable Avro or DICOM | rejects the message: `file_unreadable` |
| has a key that leads out of the directory | rejects the message: `key_outside_directory` |
| is missing | fails, and is retried: storage may be mounted late |

Programs that put files there write `NAME.part` first and rename it: a scan takes no such file.
"""
