"""
The bytes of a bundle, checked with fhir.resources.
"""

import json
from decimal import Decimal

from fhir.resources.bundle import Bundle
from pydantic import ValidationError

CONTENT_TYPE = "application/fhir+json; fhirVersion=5.0"


class InvalidBundle(ValueError):  # noqa: N818
    """*place* names the element, such as `entry.0.resource.code`, and never its value."""

    def __init__(self, place: str) -> None:
        super().__init__(f"the bundle is invalid: {place}")
        self.place = place


def bundle_of(body: bytes) -> Bundle:
    """
    The bundle in *body*, whose decimals have all their digits.

    Takes about half a millisecond for each resource. Raises InvalidBundle.
    """
    try:
        return Bundle.model_validate(json.loads(body, parse_float=Decimal))
    except ValidationError as error:
        (first, *_) = error.errors(include_input=False, include_context=False, include_url=False)
        raise InvalidBundle(".".join(map(str, first["loc"]))) from None
    except KeyError:  # of the library, for a type of resource that FHIR does not have
        raise InvalidBundle("entry.resource.resourceType") from None
    except (ValueError, RecursionError):
        raise InvalidBundle("no JSON") from None
