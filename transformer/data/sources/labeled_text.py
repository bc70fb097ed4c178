"""Labeled text: load("en_pt"), load("reviews.csv"), load("ag_news_subset")."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transformer import storage
from transformer.data.records import Arrays, Records
from transformer.data.sources import (
    HELD_OUT,
    column_names,
    held_out_fraction,
    own_path,
    refuse_columns,
)


def load(
    source: str | Path, *, columns: str = "", held_out: float = HELD_OUT
) -> Records:
    """`text`, an array of strings, and `label` int32 [N]; `labels` are the classes.

    columns: the names of the two columns of a table, divided by a comma; by default
        those of usual names.

    en_pt: the sentences of the shipped pairs, labeled by language, split as the pairs.
    A TFDS data set needs one text (or one called text) and one ClassLabel feature.
    """
    path = own_path(source, "labeled text", held_out)
    if path is not None:
        from transformer.data.readers import label_table

        names = column_names(columns, 2) if columns else ()
        return label_table.read(
            path, held_out=held_out_fraction(source, held_out), columns=names
        )
    refuse_columns(columns, source)
    from transformer.data.tfds import arrays

    if source == "en_pt":
        return by_language(arrays.pairs("en_pt", held_out=held_out))
    return arrays.labeled_text(str(source), held_out=held_out)


def by_language(pairs: Records) -> Records:
    """The sentences of both sides of `pairs`, labeled by side."""

    def both(split: Arrays) -> Arrays:
        sides = split["first"], split["second"]
        label = np.repeat(np.arange(2, dtype=np.int32), [len(side) for side in sides])
        return {"text": np.concatenate(sides), "label": label}

    return Records(
        name=pairs.name,
        fingerprint=storage.short_hash("by language", pairs.fingerprint),
        train=both(pairs.train),
        validation=both(pairs.validation),
        labels=pairs.labels,
    )
