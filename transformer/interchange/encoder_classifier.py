"""A classifier on an encoder of another library: its net, the parameters that it starts
from, and its data as the folder prepares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.data import records
from transformer.data.records import Records
from transformer.interchange import image_rows
from transformer.interchange.architectures import bert, distilbert, videomae, vit
from transformer.interchange.start import PretrainedStart
from transformer.network import masks
from transformer.network.precision import cast_weights
from transformer.training.checksum import leaf_paths

IMAGE_BATCH = 64
# The map to the classes, which is new for other ones.
HEAD = "unembedding_VD", "b_V"


def with_labels(sizes: Any, labels: tuple[str, ...], name: str) -> Any:
    """The sizes of a classifier with these classes on the encoder of `sizes`; name: of
    its class. ValueError for another kind of model."""
    if isinstance(sizes, vit.Sizes):
        pooler = vit.Sizes._field_defaults["pooler"]
        return sizes._replace(head="classifier", labels=labels, pooler=pooler)
    if isinstance(sizes, videomae.Sizes):
        return sizes._replace(head="classifier", labels=labels)
    if isinstance(sizes, bert.Sizes):
        return sizes._replace(readout=False, labels=labels, pooled=True)
    if isinstance(sizes, distilbert.Sizes):
        return sizes._replace(readout=False, labels=labels)
    raise ValueError(
        "expected BERT, RoBERTa, DistilBERT, ViT, DINOv2 or VideoMAE, as an encoder or "
        f"a classifier, got {name}"
    )


def _key(path: str) -> str:
    """The path of a parameter of an encoder, whatever stands around it."""
    while path.startswith("encoder/"):
        path = path.removeprefix("encoder/")
    return path


class ClassifierStart(NamedTuple):
    """The parameters of the encoder in `source`, in a classifier with `labels`; those
    of its head too where it is a classifier with the same ones. partial: accept new
    parameters, which stay as they are."""

    source: PretrainedStart
    labels: tuple[str, ...]
    partial: bool

    @property
    def folder(self) -> Path:
        """That the parameters are read from."""
        return self.source.folder

    def open_source(self) -> tuple[Any, bool]:
        """The folder, opened, and whether its head fits."""
        opened = self.source.open()
        return opened, getattr(opened.sizes, "labels", ()) == self.labels

    def match(self, params: Any, theirs: Any, head: bool) -> dict[str, str]:
        """Path of ours -> of theirs, for those that are taken."""
        source = {_key(path): path for path in leaf_paths(theirs)}
        shapes = {path: leaf.shape for path, leaf in leaf_paths(theirs).items()}
        return {
            path: source[_key(path)]
            for path, leaf in leaf_paths(params).items()
            if (path not in HEAD or head)
            and shapes.get(source.get(_key(path), "")) == leaf.shape
        }

    def check(self, abstract_params: Any) -> None:
        """Print what is taken and what is new. ValueError for new parameters that
        `partial` does not accept."""
        opened, head = self.open_source()
        found = self.match(abstract_params, opened.abstract_params, head)
        new = [path for path in leaf_paths(abstract_params) if path not in found]
        left = set(leaf_paths(opened.abstract_params)) - set(found.values())
        if new and not self.partial:
            name = opened.architecture.name(opened.sizes)
            raise ValueError(
                f"{self.folder}: expected a classifier of {', '.join(self.labels)}, "
                f"got {name} without {', '.join(new)}; --init_partial begins them anew"
            )
        print(f"{self.folder}: {len(found)} parameters taken", flush=True)
        for path in new:
            print(f"  new: {path}", flush=True)
        for path in sorted(left):
            print(f"  left over: {path}", flush=True)

    def load(self, abstract_params: Any) -> Any:
        """All parameters. ValueError where some are new."""
        self._replace(partial=False).check(abstract_params)
        return self.apply(abstract_params)

    def apply(self, params: Any) -> Any:
        """`params` with the leaves that are taken, sharded as they were."""
        opened, head = self.open_source()
        values = leaf_paths(opened.read_params())
        found = self.match(params, opened.abstract_params, head)
        leaves = [
            jax.device_put(np.asarray(values[found[path]]), leaf.sharding)
            if path in found
            else leaf
            for path, leaf in leaf_paths(params).items()
        ]
        return jax.tree.unflatten(jax.tree.structure(params), leaves)


def image_splits(
    data: Records,
    how: image_rows.Preprocessing,
    sizes: vit.Sizes,
    *,
    batch_size: int,
    seed: int,
) -> tuple[Any, Any]:
    """Shuffled training rows and all validation rows, as the folder prepares them:
    `raw_BLP`, `label_B` and `weight_B`. Gray images have three equal channels where the
    model has them, which a printed line says."""
    channels = data.train["image"].shape[-1]
    to_patches = image_rows.preparation(data.name, channels, sizes.image, how)

    def prepare(example: Any, rng: Any) -> dict[str, np.ndarray]:
        raw_BLP = to_patches(example["image"])
        return {"raw_BLP": raw_BLP, "label_B": example["label"]}

    train = records.training(
        data.train, batch_size=batch_size, seed=seed, name=data.name, prepare=prepare
    )
    held_out = records.evaluation(
        data.validation, batch_size=IMAGE_BATCH, prepare=prepare
    )
    return train, held_out


def image_logits(net: Any, dtype: str, *, extra: int) -> Any:
    """The function (params, batch) -> float32 logits (B, V) of a classifier of raw
    patches or tubelets. extra: tokens before them, such as a class token."""

    def apply(params: Any, batch: Any) -> jax.Array:
        raw_BLP = batch["raw_BLP"]
        tokens = masks.single_document(raw_BLP.shape[1] + extra)
        weights = cast_weights(params, dtype)
        return net.apply({"params": weights}, jnp.asarray(raw_BLP), tokens)

    return apply
