"""
JSON text as relay, producers and consumers accept it: RFC 8259, in UTF-8, and with one reading.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 200
"""Most arrays and objects within each other; the parser of pydantic reads hardly more."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_STRINGS = re.compile(rb'"[^"]*"?')
_AS_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_ALL_BUT_BRACKETS_AND_QUOTES = bytes(set(range(256)) - set(b'[]{}"'))
_HALF_OF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def read(body: bytes) -> Any:
    """
    Return the value of the JSON text *body*.

    Raises ValueError if it is not JSON in UTF-8, is nested more than `MAX_DEPTH` deep, has a key
    twice or a number that is infinite, or text that is not Unicode.
    The error may hold the body.
    """
    return _read(_DECODER, body)


def is_json(body: bytes) -> bool:
    """Return whether `read` accepts *body*."""
    try:
        read(body)
    except ValueError:
        return False
    return True


def member(body: bytes, name: str) -> bytes:
    """
    Return the text of the member *name* of the JSON object *body*, which `read` has accepted.

    Raises ValueError if there is none.
    """
    text = without_mark(body).decode()
    at = _after_space(text, 0) + 1
    while text[at := _after_space(text, at)] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _after_space(text, at) + 1
        start = _after_space(text, at)
        _, at = _DECODER.raw_decode(text, start)
        if key == name:
            return text[start:at].encode()
        at = _after_space(text, at)
        at += text[at] == ","
    raise ValueError("no such member")


def reader(parse_float: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """Return a function like `read` that calls *parse_float* for numbers that are no integers."""
    decoder = _decoder(parse_float)
    return lambda body: _read(decoder, body)


def without_mark(body: bytes) -> bytes:
    """Return *body* without the byte order mark that some programs write before it."""
    return body.removeprefix(_BYTE_ORDER_MARK)


def is_too_deep(body: bytes) -> bool:
    """Return whether the JSON text *body* is nested more than `MAX_DEPTH` deep."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    # The steps are those of the interpreter, over bytes: bodies may be large, and are rarely deep.
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = body.translate(_AS_ONE_KIND, _ALL_BUT_BRACKETS_AND_QUOTES).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _STRINGS.sub(b"", brackets)
    for _ in range(MAX_DEPTH):
        # Each pass removes the innermost level.
        outer = brackets.replace(b"[]", b"")
        if len(outer) == len(brackets):
            break
        brackets = outer
    return bool(brackets)


def _read(decoder: json.JSONDecoder, body: bytes) -> Any:
    text = without_mark(body)
    if is_too_deep(text):
        raise ValueError("nested too deeply, or brackets without a partner")
    try:
        value = decoder.decode(text.decode())
        if b"\\u" in text and _HALF_OF_A_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        # A program may have set a low limit.
        raise ValueError("nested too deeply") from None
    return value


def _decoder(parse_float: Callable[[str], Any]) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_object, parse_float=parse_float, parse_constant=_refuse_constant
    )


def finite(text: str) -> float:
    """Return the number *text*; raises ValueError if it is too large for a float."""
    number = float(text)
    if math.isinf(number):
        raise ValueError("too large a number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object without repeated keys, which two programs may read in two ways."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _after_space(text: str, at: int) -> int:
    while text[at] in " \t\n\r":
        at += 1
    return at


def _refuse_constant(_constant: str) -> Any:
    raise ValueError("NaN and infinity are not JSON")


_DECODER = _decoder(finite)
