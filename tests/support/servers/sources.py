"""
Turn the choice of a source into a server that has begun to start.

Invariant: an engine that answers, but cannot run our image, counts as no engine.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, assert_never

from tests.support.servers.choice import (
    Choice,
    Contained,
    Given,
    Installable,
    Missing,
    Private,
    Product,
    ServerMissingError,
    choice_here,
    described,
    named_programs,
)
from tests.support.servers.containers import ContainerError
from tests.support.servers.isolation import DISK
from tests.support.servers.packages import PackageError, install, packages_installable
from tests.support.servers.server import Server

S = TypeVar("S", bound=Server)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources(Generic[S]):
    """
    How to start a server of *product* from each source.

    *private* takes the directory of the programs, and the one in which to make a directory.
    """

    product: Product
    given: Callable[[str], S]
    contained: Callable[[str], S]
    private: Callable[[Path, Path], S]

    def __str__(self) -> str:
        return described(self.product, choice_here(self.product))

    def launched(self, parent: Path = DISK) -> S:
        """
        Return a server that has begun to start; `ServerMissingError` if there is none.

        A private one has its data in *parent*.
        """
        try:
            server = self._built(choice_here(self.product), parent)
            server.launch()
        except ContainerError:
            server = self._built(choice_here(self.product, docker=False), parent)
            server.launch()

        return server

    def programs(self) -> Path:
        """
        The directory of the programs on this machine; installs them if that is allowed.

        For tests that a container or an external server does not allow.
        Raises ServerMissingError.
        """
        found = named_programs(self.product, os.environ) or self.product.binaries()
        if found is not None:
            return found
        if not packages_installable():
            raise ServerMissingError(self.product, "It has to be installed on this machine.")
        return self._installed(self.product.package)

    def _built(self, choice: Choice, parent: Path) -> S:
        match choice:
            case Given(url):
                return self.given(url)
            case Contained(image):
                return self.contained(image)
            case Private(binaries):
                named = named_programs(self.product, os.environ)
                return self.private(named or binaries, parent)
            case Installable(package):
                return self.private(self._installed(package), parent)
            case Missing():
                raise ServerMissingError(self.product)
            case _:
                assert_never(choice)

    def _installed(self, package: str) -> Path:
        try:
            install(package)
        except PackageError as failed:
            raise ServerMissingError(self.product, f"apt-get failed:\n{failed}") from failed
        binaries = self.product.binaries()
        if binaries is None:
            raise ServerMissingError(self.product, f"The package {package} brought no server.")

        return binaries
