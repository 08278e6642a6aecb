"""
The leak marker is found in plain text, in hexadecimal digits and in base64.
"""

from base64 import b64encode

import pytest

from tests.reliability.leak_marker import LEAK_MARKER, is_leaked_in

AROUND = [b"", b"a", b"ab", b"abc"]


@pytest.mark.parametrize("before", AROUND)
@pytest.mark.parametrize("after", AROUND)
def test_the_leak_marker_is_found_plain_in_hexadecimal_digits_and_in_base64(before, after):
    text = before + LEAK_MARKER + after

    assert is_leaked_in(text)
    assert is_leaked_in(text.hex().encode())
    assert is_leaked_in(b64encode(text))


def test_the_leak_marker_is_not_found_in_similar_text():
    other = LEAK_MARKER[:-1] + b"#"

    assert not any(is_leaked_in(form) for form in (other, other.hex().encode(), b64encode(other)))
