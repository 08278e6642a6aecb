"""
Media types, as RFC 9110, section 8.3.1, and RFC 6838, section 4.2, write them.

    application/json
    application/fhir+json; fhirVersion=4.0
    multipart/related; type="application/dicom"

`MEDIA_TYPE` is the one pattern of a content type. It uses only syntax that Postgres reads alike.
"""

import re
from functools import lru_cache

JSON = "application/json"
UNKNOWN = "application/octet-stream"
"""The type of a body without one (RFC 9110, section 8.3)."""

MAX_BYTES = 255

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_QUOTED = r'"([\t !#-\[\]-~]|\\[\t -~])*"'

# White space has one place in the pattern wherever it stands, so that no text takes long.
MEDIA_TYPE = rf"{_NAME}/{_NAME}([ \t]*;([ \t]*{_WORD}=({_WORD}|{_QUOTED}))?)*[ \t]*"

_MEDIA_TYPE = re.compile(MEDIA_TYPE)
_CHARSET = re.compile(rf'; *charset=("?)({_WORD})\1 *(;|$)', re.ASCII)
_QUOTED_TEXT = re.compile(_QUOTED)
_IN_UTF_8 = {"utf-8", "utf8", "us-ascii", "ascii"}


def essence(text: str) -> str:
    """Return the type *text* without its parameters, in lower case."""
    return text.partition(";")[0].strip(" \t").lower()


# A service has few types, and each message has one: the functions are called once for each type.
@lru_cache(maxsize=1024)
def is_media_type(text: str) -> bool:
    """Return whether *text* is a media type, with or without parameters."""
    return len(text) <= MAX_BYTES and _MEDIA_TYPE.fullmatch(text) is not None


@lru_cache(maxsize=1024)
def is_json(text: str) -> bool:
    """Return whether *text* is the type `application/json`, with any parameters."""
    return essence(text) == JSON


@lru_cache(maxsize=1024)
def may_be_json(text: str) -> bool:
    """
    Return whether a body of the type *text* can be JSON, as far as its name says.

    It can if the type is JSON by any name, or unknown.
    """
    return names_json(text) or essence(text) in {UNKNOWN, ""}


@lru_cache(maxsize=1024)
def names_json(text: str) -> bool:
    """Return whether *text* is the type of JSON, by any name (RFC 6839, section 3.1)."""
    return (name := essence(text)) in {JSON, "text/json"} or name.endswith("+json")


@lru_cache(maxsize=1024)
def names_another_charset(text: str) -> bool:
    """Return whether *text* has a parameter `charset` that is not UTF-8 or a part of it."""
    found = _CHARSET.search(_without_quotes(text).lower().replace("\t", " "))
    return found is not None and found[2] not in _IN_UTF_8


def _without_quotes(text: str) -> str:
    """*text* with each quoted value that is a token unquoted, and all others left out."""

    def plain(quoted: re.Match[str]) -> str:
        value = re.sub(r"\\(.)", r"\1", quoted[0][1:-1])
        return value if re.fullmatch(_WORD, value) else "x"

    return _QUOTED_TEXT.sub(plain, text)
