"""transformers, where it is installed, loads exports of parts of models: encoders
without a pooler."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

from test_unpooled_encoders import CLASSES, write_unpooled

from transformer.interchange import folder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def export(source: Path, out: Path) -> Path:
    """The folder read and written again."""
    opened = folder.open_folder(source)
    folder.write_folder(
        out,
        opened.architecture,
        opened.sizes,
        opened.read_params(),
        token_ids=folder.read_token_ids(source),
    )
    return out


def load(kind: Any, path: Path, **options: Any) -> tuple[Any, set[str]]:
    """The model, and the names of tensors that it misses; none are left over."""
    model, found = kind.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True, **options
    )
    missing = set(found.pop("missing_keys"))
    assert {key: list(names) for key, names in found.items() if names} == {}
    return model.eval(), missing


@pytest.mark.parametrize("name", CLASSES)
def test_auto_model_adds_a_pooler_unless_it_is_told_not_to(
    name: str, tmp_path: Path
) -> None:
    """To the export as to its source: all else is equal to the bit."""
    source = write_unpooled(tmp_path / "model", name)
    out = export(source, tmp_path / "out")
    for path in (source, out):
        _, missing = load(transformers.AutoModel, path)
        assert missing == {"pooler.dense.weight", "pooler.dense.bias"}
    states = []
    for path in (source, out):
        model, missing = load(transformers.AutoModel, path, add_pooling_layer=False)
        assert not missing and type(model).__name__ == CLASSES[name]
        states.append(model.state_dict())
    theirs, ours = states
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        np.testing.assert_array_equal(tensor.numpy(), ours[key].numpy(), key)
