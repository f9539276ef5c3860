"""Roots of programs, made of their sources and kept in the cache as long as nothing of them changes."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.languages.sources import Source, locked

# Changed when a root of the same sources is made in another way.
FORM = 1


def root_of(name: str, sources: Sequence[Source]) -> Path:
    """The root with all of `sources`, made now or before."""
    key = hashlib.sha256(repr((FORM, sources)).encode())
    for source in sources:
        for path in source.reads():
            key.update(path.name.encode() + b"\0" + path.read_bytes())
    with locked(f"root-{name}") as directory:
        root = directory / key.hexdigest()[:16]
        if not root.exists():
            # What was made of other sources is not needed any more.
            shutil.rmtree(directory)
            directory.mkdir()
            making = Path(tempfile.mkdtemp(dir=directory))
            making.chmod(0o755)
            for name_ in ("dev", "proc", "sys", "tmp", "run", "var/tmp", "root"):
                (making / name_).mkdir(parents=True, exist_ok=True)
            (making / "etc").mkdir()
            (making / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
            (making / "etc/group").write_text("root:x:0:\n")
            (making / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
            for source in sources:
                source.put(making)
            making.rename(root)
    return root
