"""
Golden: a change of the digest would put a key's messages into two lanes during an upgrade.
"""

import hashlib

from relay.ordering_key_hash import OrderingKeyHasher

SALT = bytes(range(32))


def test_the_lane_of_a_key_is_its_keyed_digest():
    lane = OrderingKeyHasher(SALT).lane("user-4711")

    assert lane == "0979a77c1743e630225f9a04169017de"
    assert lane == hashlib.blake2b(b"user-4711", key=SALT, digest_size=16).hexdigest()


def test_a_lane_does_not_depend_on_keys_that_were_digested_before():
    key_hasher = OrderingKeyHasher(SALT)
    key_hasher.lane("another")

    assert key_hasher.lane("ü") == OrderingKeyHasher(SALT).lane("ü")
    assert key_hasher.lane("ü") != key_hasher.lane("another")


def test_without_a_key_there_is_no_lane():
    assert OrderingKeyHasher(SALT).lane(None) is None


def test_another_secret_makes_other_lanes():
    assert OrderingKeyHasher(SALT).lane("k") != OrderingKeyHasher(bytes(32)).lane("k")
