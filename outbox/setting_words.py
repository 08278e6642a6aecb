"""
The words of errors about the values of settings.
"""

from typing import Any

EMPTY = "is empty: give it a value, or remove it for the default"
NO_SCHEME = "is not a URL, as sqlite:///app.db or postgresql://user:password@host/database is"
NOT_A_URL = (
    "is not a URL: write other characters than letters and digits in user and password as %XX, "
    "such as %40 for @"
)

_WORDS = {
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "bool_parsing": "must be true or false",
    "too_short": "must have at least one item",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "may have letters, digits and the characters _ . : - only",
}
"""What to say instead of pydantic's words, by the type of its error."""


def line(name: str, error: Any) -> str:
    """Return the line for an *error* of pydantic about the setting *name*; it shows no value."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if not name:
        return message  # of a check of several settings, which names them itself
    if error["input"] == "":
        return f"{name}: {EMPTY}"
    message = _WORDS.get(error["type"], message).replace("Input should be", "must be")
    return f"{name}: {message}"
