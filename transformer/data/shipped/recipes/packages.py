"""Packages of public archives, downloaded and unpacked; none of their code is run."""

from __future__ import annotations

import lzma
import subprocess
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from transformer import storage


class Package(NamedTuple):
    """One exact package. archive: "Debian" or "npm"."""

    archive: str
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.archive} {self.name} {self.version}"


class Dataset(NamedTuple):
    """A data set as built: its files by name, and its record without their hashes."""

    files: dict[str, bytes]
    record: dict[str, Any]


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise ValueError(
            f"{' '.join(command)}: expected the package, got: {lines[-1]} (a package "
            "that the archive has replaced can be given as a file)"
        )


def fetch(package: Package, folder: Path) -> Path:
    """Download the package into the empty `folder`; ValueError where that fails."""
    if package.archive == "Debian":
        exact = f"{package.name}={package.version}"
        _run(["apt-get", "download", "-q", exact], folder)
    else:
        exact = f"{package.name}@{package.version}"
        _run(["npm", "pack", "--silent", "--ignore-scripts", exact], folder)
    return next(folder.iterdir())


def unpack(package: Package, file: Path, folder: Path) -> Path:
    """The package's files under `folder`; ValueError unless `file` is that package."""
    got = storage.sha256(file)
    if got != package.sha256:
        raise ValueError(f"{file}: expected sha256 {package.sha256}, got {got}")
    if package.archive == "Debian":
        _run(["dpkg-deb", "-x", str(file), str(folder)], folder)
    else:
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")
    return folder


def facts(packages: tuple[Package, ...]) -> list[dict[str, str]]:
    """The packages as the record lists them."""
    return [package._asdict() for package in packages]


def pack(data: bytes, *, stride_bytes: int | None = None) -> bytes:
    """`data` as .xz, deterministic.

    stride_bytes: first replace each byte by its difference to the one this far before.
    """
    filters: list[dict[str, int]] = [
        {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}
    ]
    if stride_bytes is not None:
        filters.insert(0, {"id": lzma.FILTER_DELTA, "dist": stride_bytes})
    return lzma.compress(data, check=lzma.CHECK_CRC64, filters=filters)
