"""Where results are kept. Apart from `history`, whose database library takes a fifth of a second to load."""

import os
from pathlib import Path

ENVIRONMENT = "HEADGATE_LOAD_HISTORY"


def history_url() -> str:
    """A file in the user's data folder (XDG Base Directory), or what the environment says."""
    if given := os.environ.get(ENVIRONMENT):
        return given
    base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return f"sqlite:///{base / 'headgate' / 'load.sqlite'}"
