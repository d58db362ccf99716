"""Which code measured: the package's sources, its version, and the state of its checkout."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from codi_patching.results.description import Code

_PACKAGE = Path(__file__).parents[1]


@cache
def describe_code() -> Code:
    """The code that runs."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--", ".") if commit else None
    return Code(
        sources_sha256(_PACKAGE),
        version("codi_patching"),
        commit,
        bool(status) if status is not None else None,
    )


def sources_sha256(package: Path) -> str:
    """SHA-256 over the Python sources of a package: their paths and bytes, in order."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _git(*args: str) -> str | None:
    """What git says of the package's folder; None outside a checkout of it."""
    try:
        if not (_PACKAGE.parent / ".git").exists():
            return None
        run = subprocess.run(
            ["git", *args], cwd=_PACKAGE, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
