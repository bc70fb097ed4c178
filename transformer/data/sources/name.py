"""What a source name means: a shipped data set, the user's own path, or a TFDS name.

A shipped data set's name comes first, then a path that exists, then a TFDS name (a
folder called digits is given as ./digits). The shipped data sets are TFDS builders and
take the same path as any other name. The modules beside this one have one `load` each;
`held_out` is the fraction that becomes validation where the source has no such split.
All raise ValueError, in one line, for a source that is missing, empty, unknown or
malformed.
"""

from __future__ import annotations

import re
from pathlib import Path

from transformer.data.shipped.files import MEMBERS

HELD_OUT = 0.05
TFDS_NAME = re.compile(r"\w+(:\w+)?(/[\w.,=+-]+)*(:[\d.*]+)?")  # name/config:version


def own_path(source: str | Path, what: str, held_out: float) -> Path | None:
    """The path of the user's own data, or None if `source` is a name."""
    if not 0 < held_out < 1:
        raise ValueError(
            f"held_out: expected a fraction between 0 and 1, got {held_out}"
        )
    path = Path(source).expanduser()
    if source not in ("", *MEMBERS) and path.exists():
        return path
    if isinstance(source, Path) or not TFDS_NAME.fullmatch(source):
        raise ValueError(
            f"expected a file or folder of {what}, got none at {str(source)!r}"
        )
    return None
