"""
Synthetic bundles.
"""

import random
from datetime import UTC, datetime, timedelta
from string import Template
from uuid import UUID

# Text, because a float in Python has no zeros at its end.
_BUNDLE = Template(
    '{"resourceType":"Bundle","type":"transaction","identifier":'
    '{"system":"https://example.org/bundles","value":"$name"},"entry":[$entries]}'
)
_ENTRY = Template(
    '{"fullUrl":"urn:uuid:$id","resource":{"resourceType":"Observation","status":"final",'
    '"code":{"coding":[{"system":"http://loinc.org","code":"15074-8",'
    '"display":"Glucose [Moles/volume] in Blood"}]},'
    '"subject":{"reference":"Patient/synthetic-$patient"},"effectiveDateTime":"$at",'
    '"valueQuantity":{"value":$value,"unit":"mmol/L",'
    '"system":"http://unitsofmeasure.org","code":"mmol/L"}},'
    '"request":{"method":"POST","url":"Observation"}}'
)


def transaction(count: int, *, seed: int) -> bytes:
    """A bundle of *count* observations, about 480 bytes each; each tenth is high."""
    chance = random.Random(seed)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    entries = (
        _ENTRY.substitute(
            id=UUID(int=chance.getrandbits(128)),
            patient=at % 7,
            at=(start + at * timedelta(minutes=5)).isoformat(),
            value="14.50" if at % 10 == 9 else f"{chance.uniform(4, 9):.2f}",
        )
        for at in range(count)
    )
    return _BUNDLE.substitute(name=f"bundle-{seed}", entries=",".join(entries)).encode()
