"""What is made once for all checkouts, in `~/.cache/mediagate`, which may be deleted at any time.

    path = cache.path("llama-server-1", recipe)     where it is, or would be
    cache.fill(path, make)                          if it is not there, `make(target)` makes it

It appears whole or not at all, and is never changed afterwards.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from engines.install_vllm import CACHE


def path(name: str, *recipe: Path) -> Path:
    """The directory of what is made by a recipe.

    Args:
        name: What it is, and its version.
        recipe: Files on which its contents depend: when they change, it is another directory.
    """
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in recipe)).hexdigest()
    return CACHE / f"{name}-{digest[:12]}"


def fill(path: Path, make: Callable[[Path], None]) -> Path:
    """The directory, made if it is not there.

    Args:
        path: Where it shall be.
        make: Given another path below the cache, at which it makes a directory; what it raises goes to the caller.
    """
    if not path.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="unfinished-") as unfinished:
            target = Path(unfinished, "target")
            make(target)
            try:
                target.rename(path)
            except OSError:
                if not path.is_dir():  # else somebody else was faster
                    raise
    return path
