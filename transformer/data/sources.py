"""One door to each kind of data: a shipped member, the user's own files, or TFDS.

    text("austen")        text("letters.txt")      text("tiny_shakespeare")
    images("digits")      images("photos/")        images("mnist")
    pairs("en_pt")        pairs("pairs.tsv")       pairs("ted_hrlr_translate/pt_to_en")
    captions("emoji")     captions("pictures/")    captions("any TFDS name")
    fields("winds")       fields("ocean.nc")
                          episodes("episodes/")

A source is a shipped member's name, else a path that exists, else a TFDS name (a
folder called digits is reached as ./digits). The shipped members are TFDS builders and
are read like any other. `held_out` is the share that becomes validation where the
source has no such split. All raise ValueError, of one line, for what is missing, empty
or unknown, and for what is there but does not fit.
"""

from __future__ import annotations

import re
from pathlib import Path

from transformer.data import fields as grids
from transformer.data import records
from transformer.data.readers import (
    caption_table,
    episode_files,
    grid_files,
    image_folder,
    sentence_table,
    text_files,
)
from transformer.data.shipped import files
from transformer.data.text import documents
from transformer.data.tfds import arrays
from transformer.data.tfds import text as tfds_text

HELD_OUT = 0.05
TFDS_NAME = re.compile(r"\w+(:\w+)?(/[\w.,=+-]+)*(:[\d.*]+)?")  # name/config:version


def _own_path(source: str | Path, what: str, held_out: float) -> Path | None:
    """The path of the user's own data, or None if `source` is a name."""
    if not 0 < held_out < 1:
        raise ValueError(f"held_out: expected a share between 0 and 1, got {held_out}")
    path = Path(source).expanduser()
    if source not in ("", *tfds_text.SHIPPED) and path.exists():
        return path
    if isinstance(source, Path) or not TFDS_NAME.fullmatch(source):
        raise ValueError(
            f"expected a file or folder of {what}, got none at {str(source)!r}"
        )
    return None


def text(
    source: str | Path, *, feature: str | None = None, held_out: float = HELD_OUT
) -> documents.Text:
    """The documents of `source` in a train and a validation split.

    feature: which text feature of a TFDS data set, where it has several.
    """
    path = _own_path(source, "text", held_out)
    if path is not None:
        return text_files.text(path, held_out=held_out)
    return tfds_text.text(str(source), feature=feature, held_out=held_out)


def images(source: str | Path, *, held_out: float = HELD_OUT) -> records.Records:
    """Images with their classes: `image` uint8 [N, rows, columns, channels], `label`
    int32 [N]; `labels` names the classes.

    A TFDS name needs one 8-bit image and one ClassLabel feature.
    """
    path = _own_path(source, "images", held_out)
    if path is not None:
        return image_folder.read(path, held_out=held_out)
    return arrays.images(str(source), held_out=held_out)


def pairs(source: str | Path, *, held_out: float = HELD_OUT) -> records.Records:
    """Sentences and their translations: `first` and `second`, arrays of texts; `labels`
    names the two languages.

    A TFDS name needs exactly two text features.
    """
    path = _own_path(source, "sentence pairs", held_out)
    if path is not None:
        return sentence_table.read(path, held_out=held_out)
    return arrays.pairs(str(source), held_out=held_out)


def captions(
    source: str | Path, *, language: str = "en", held_out: float = HELD_OUT
) -> records.Records:
    """Images with a text each: `image` as in `images`, `text` an array of texts.

    language: which text, where there is one for several languages.
    A TFDS name needs one 8-bit image feature, and a text feature called as the
    language, or text, or caption, or a single one.
    """
    path = _own_path(source, "images with captions", held_out)
    if path is not None:
        return caption_table.read(path, held_out=held_out, language=language)
    return arrays.captions(str(source), language=language, held_out=held_out)


def fields(source: str | Path, *, held_out: float = HELD_OUT) -> grids.Fields:
    """A series of maps on a grid; validation is what comes after `train_steps`."""
    path = _own_path(source, "fields", held_out)
    if path is not None:
        return grid_files.read(path, held_out=held_out)
    if source != "winds":
        raise ValueError(
            f"expected the shipped winds or a file of fields, got {source!r}"
        )
    return files.winds()


def episodes(source: str | Path, *, held_out: float = HELD_OUT) -> records.Records:
    """Episodes of states, actions and rewards out of the user's own folder."""
    path = _own_path(source, "episodes", held_out)
    if path is None:
        raise ValueError(f"expected a folder of episodes, got none at {source!r}")
    return episode_files.read(path, held_out=held_out)
