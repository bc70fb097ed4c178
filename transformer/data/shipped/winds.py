"""The shipped winds as fields on a grid."""

from __future__ import annotations

import numpy as np

from transformer import storage
from transformer.data.records import Fields
from transformer.data.shipped import files


def load() -> Fields:
    """All months of the winds, in m/s."""
    facts = files.record("winds")
    # First all low bytes, then all high bytes.
    coded = np.frombuffer(files.content("winds", "values.xz"), np.uint8)
    integers = np.ascontiguousarray(coded.reshape(2, -1).T).view("<i2")
    values = integers.reshape(facts["shape"]) * facts["scale"] + facts["offset"]
    return Fields(
        name="winds",
        fingerprint=storage.short_hash(repr(facts)),
        values=values.astype(np.float32),
        latitude=np.array(facts["latitude"], np.float32),
        longitude=np.array(facts["longitude"], np.float32),
        time=np.array(facts["months"], "datetime64[D]"),
        variables=tuple(facts["variables"]),
        units=(facts["unit"],) * len(facts["variables"]),
        train_steps=facts["train_steps"],
    )
