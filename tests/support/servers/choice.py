"""
Decide where a test server comes from.

Invariant: this module starts and installs nothing, so that the header of a run can use it.
The order: a URL or a directory of programs in the environment, a Docker engine, a program of this
machine, a package.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, assert_never

from tests.support.servers.containers import engine_answers
from tests.support.servers.packages import packages_installable


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """
    A server that tests need, and its names in each source.

    *directory_variable* may name the directory of its *programs*, for another version; with
    *any_program* one of them suffices.
    """

    name: str
    variable: str
    directory_variable: str
    programs: tuple[str, ...]
    image: str
    package: str
    binaries: Callable[[], Path | None]
    any_program: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    url: str


@dataclass(frozen=True, slots=True)
class Contained:
    image: str


@dataclass(frozen=True, slots=True)
class Private:
    binaries: Path


@dataclass(frozen=True, slots=True)
class Installable:
    package: str


@dataclass(frozen=True, slots=True)
class Missing:
    pass


Choice: TypeAlias = Given | Contained | Private | Installable | Missing


class ServerMissingError(Exception):
    """No source has a server that the tests need."""

    def __init__(self, product: Product, reason: str = "") -> None:
        super().__init__(
            f"The tests need {product.name} and found none.{reason and f' {reason}'}\n"
            f"Set {product.variable} to the URL of a server made for tests, or "
            f"{product.directory_variable} to the directory of its programs, or start a Docker "
            f"engine (the image is {product.image}), or install {product.name} on this machine, "
            f"for instance by `apt-get install {product.package}`."
        )


def choose(
    product: Product,
    *,
    environment: Mapping[str, str],
    engine: bool,
    binaries: Path | None,
    packages: bool,
) -> Choice:
    """Return the first source of *product* in the order that the module names."""
    if url := environment.get(product.variable):
        return Given(url)
    if directory := environment.get(product.directory_variable):
        return Private(Path(directory))
    if engine:
        return Contained(product.image)
    if binaries:
        return Private(binaries)
    if packages:
        return Installable(product.package)
    return Missing()


def choice_here(product: Product, *, docker: bool = True) -> Choice:
    """Return where *product* comes from on this machine, leaving out Docker if it failed us."""
    return choose(
        product,
        environment=os.environ,
        engine=docker and engine_answers(),
        binaries=product.binaries(),
        packages=packages_installable(),
    )


def named_programs(product: Product, environment: Mapping[str, str]) -> Path | None:
    """
    Return the directory of programs that *environment* names for *product*, or None.

    Raises ServerMissingError if a program that is needed is not in it.
    """
    directory = environment.get(product.directory_variable)
    if not directory:
        return None
    missing = [each for each in product.programs if not Path(directory, each).is_file()]
    enough = len(product.programs) - 1 if product.any_program else 0
    if len(missing) > enough:
        raise ServerMissingError(
            product,
            f"The directory that {product.directory_variable} names has no {missing[0]}.",
        )
    return Path(directory)


def described(product: Product, choice: Choice) -> str:
    """Return *choice* in a few words, without the password that a URL may hold."""
    match choice:
        case Given():
            origin = f"given by {product.variable}"
        case Contained(image):
            origin = f"Docker image {image}"
        case Private(binaries):
            origin = f"a private one out of {binaries}"
        case Installable(package):
            origin = f"a private one, after `apt-get install {package}`"
        case Missing():
            origin = "MISSING"
        case _:
            assert_never(choice)

    return f"{product.name}: {origin}"
