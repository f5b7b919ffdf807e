"""Where downloads and converted models live."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/optical_rs``, by default under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optical_rs"


def data_folder() -> Path:
    """Where files of known names are looked for, and kept: ``$OPTICAL_RS_DATA``, or in the cache folder."""
    given = os.environ.get("OPTICAL_RS_DATA")
    return Path(given) if given else cache_folder() / "data"
