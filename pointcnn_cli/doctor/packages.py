"""Which packages are installed, against what pointcnn's own metadata ask for."""

import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement

DISTRIBUTION = "pointcnn-cli"
FOR_DEVELOPERS = ("dev",)
"""Extras that are for working on pointcnn."""
_EXTRA = re.compile(r"\bextra == ['\"]([^'\"]+)['\"]")  # as metadata name the extra that a requirement belongs to


@dataclass(frozen=True)
class Package:
    """A package that pointcnn needs, or may use."""

    name: str
    wanted: str
    """The versions that are allowed, as in `>=18`; empty where any is."""
    found: str | None
    extra: str | None
    """The extra that installs it; None where it is always needed."""

    @property
    def fits(self) -> bool:
        """Whether it is there, in a version that is allowed."""
        wanted = Requirement(f"{self.name}{self.wanted}").specifier
        return self.found is not None and wanted.contains(self.found, prereleases=True)


def list_packages(distribution: str = DISTRIBUTION) -> list[Package]:
    """What `distribution` always needs, then what its extras add; empty where it is not installed, but run from a copy
    of its source."""
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    packages = [package for line in lines for package in _read_requirement(line)]
    needed = {package.name for package in packages if package.extra is None}
    return [package for package in packages if package.extra is None or package.name not in needed]


def find_version(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read_requirement(line: str) -> Iterator[Package]:
    """The package of a requirement, unless it is for other systems, other Pythons or developers."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement:  # of a tool that is newer than our reader
        return
    named = _EXTRA.search(line)
    extra = named.group(1) if named else None
    if extra in FOR_DEVELOPERS or (requirement.marker and not requirement.marker.evaluate({"extra": extra or ""})):
        return
    yield Package(requirement.name, str(requirement.specifier), find_version(requirement.name), extra)
