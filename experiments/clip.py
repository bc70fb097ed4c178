"""Does a name that was never read find its picture, and the picture its name?

    python -m experiments.clip
    python -m experiments.clip --language=pt --workdir=runs/match-pt

1,659 emoji and their English names, 185 held out whose names are new combinations of
known words. Two towers of 3 and 2 blocks of width 128, 1.2 M parameters, 500 steps.
The name finds its picture **first in 25.4 %**, 47 times chance (1 / 185), among the
first ten in 67.6 %, median rank 4; the picture its name likewise in 25.4, 67.0 % and 5.
A memory (the training picture whose name is nearest by tf-idf, then what looks most
like that) has 27.6 %, 56.2 % and 5: more first places, fewer among ten. 3 min 4 s on
two shared cores, 152 s of CPU time. `judge` lends the model.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import cpu_tuning, main, storage
from transformer.data import captioned_images, records
from transformer.data.sources import captions as caption_source
from transformer.data.images import augment
from transformer.evaluation import image_classifier, retrieval
from transformer.evaluation.baselines import tfidf
from transformer.models import clip
from transformer.network import masks, precision
from transformer.objectives import contrastive
from transformer.objectives.loss import Loss
from transformer.plots import caption_grid
from transformer.training import optimizers, pretrained
from transformer.training import workdir as folder
from transformer.training.experiment import Evaluation, Experiment

SHOWN = 10
# The flags that say which model it is.
SHAPE = (
    *("source", "language", "patch", "depth", "names_depth", "width", "vocab_size"),
    "workdir",
)


class Judge(NamedTuple):
    """Vectors of length 1, [N, F] float32, of 8-bit images [N, rows, columns, 3] and of
    names; the nearer an image's to a name's, the better they match."""

    images: Any
    names: Any


class Matcher(NamedTuple):
    """Two towers of images and their names, without parameters."""

    of: captioned_images.CaptionedImages
    net: Any

    def views(self, batch: dict[str, Any]) -> tuple[Any, ...]:
        """Raw patches, names, and where the tokens of both stand."""
        segment_BL = jnp.asarray(batch["segment_BL"])
        of_name = masks.packed(segment_BL, jnp.arange(segment_BL.shape[1])[None])
        seen = batch["raw_BLP"], masks.single_document(batch["raw_BLP"].shape[1])
        return *seen, batch["ids_BL"], of_name

    def init(self, key: jax.Array) -> Any:
        """Parameters."""
        one = self.of.encoder_split({name: a[:1] for name, a in self.of.data.train.items()})
        views = self.views({"raw_BLP": self.of.to_patches(one.pop("image")), **one})
        return self.net.init(key, *views)["params"]

    def judge(self, params: Any) -> Judge:
        """With these parameters."""
        params = jax.tree.map(jnp.asarray, params)

        @jax.jit
        def of_images(raw_BLP: jax.Array) -> jax.Array:
            seen = raw_BLP, masks.single_document(raw_BLP.shape[1])
            return self.net.apply({"params": params}, *seen, method="encode_image")

        @jax.jit
        def of_names(both_BIL: jax.Array) -> jax.Array:
            ids_BL, segment_BL = both_BIL[:, 0], both_BIL[:, 1]
            tokens = masks.packed(segment_BL, jnp.arange(self.of.length)[None])
            return self.net.apply(
                {"params": params}, ids_BL, tokens, method="encode_text"
            )

        def images(images: np.ndarray) -> np.ndarray:
            return image_classifier.map_batches(
                lambda some: of_images(self.of.to_patches(some)), images
            )

        def names(texts: captioned_images.Texts) -> np.ndarray:
            rows = self.of.encoder_rows(texts)
            both = np.stack([rows["ids_BL"], rows["segment_BL"]], 1)
            return image_classifier.map_batches(of_names, both)

        return Judge(images, names)


def matcher(
    source: str,
    *,
    language: str,
    patch: int,
    depth: int,
    names_depth: int,
    width: int,
    vocab_size: int,
    workdir: Path | None,
) -> Matcher:
    """ValueError where patches do not fill the images."""
    of = captioned_images.load(
        source, language=language, patch=patch, vocab_size=vocab_size, workdir=workdir
    )
    net = clip.clip(
        grid=of.grid,
        patch_features=of.patch_features,
        vocab_size=of.tokenizer.vocab_size,
        depth=depth,
        text_depth=names_depth,
        width=width,
    )
    return Matcher(of, net)


def show(model: Matcher, params: Any, key: jax.Array) -> dict[str, Any]:
    """How often the right held-out image is found by its name, and some searches."""
    held, said = model.of.data.validation, model.judge(params)
    images, names = said.images(held["image"]), said.names(held["text"])
    rank = retrieval.ranks(names @ images.T)
    # What a memory would do: of the training image whose name shares most, the nearest.
    known = model.of.data.train
    near = tfidf.nearest(list(known["text"]), list(held["text"])).index
    by_memory = retrieval.negative_squared_distance(known["image"][near], held["image"])
    searches = {
        "image by name": rank,
        "name by image": retrieval.ranks(images @ names.T),
        "image by memory": retrieval.ranks(by_memory),
    }
    results: dict[str, Any] = {"images": len(rank), "chance": 1 / len(rank)}
    for of, some in searches.items():
        for what, number in retrieval.recall_at_k(some).items():
            results[f"{of}/{what}"] = number
    chosen = np.asarray(jax.random.permutation(key, len(rank)))[:SHOWN]
    ranked = sorted(zip(rank, held["text"], strict=True))
    lines = [f"{r:4d}  {name}" for r, name in ranked]
    return {
        "results.json": results,
        "found.png": caption_grid.plot_retrieval(
            names, images, held["text"], held["image"], chosen
        ),
        "ranks.txt": "\n".join(lines),
    }


def report(loss: Loss) -> dict[str, float]:
    """The numbers that a person reads, out of the sums."""
    return {
        "loss": float(loss.sums["nats"]) / float(loss.weight),
        "accuracy": float(loss.sums["correct"]) / float(loss.sums["rows"]),
    }


def experiment(
    *,
    source: str = "emoji",
    language: Literal["en", "pt"] = "en",
    patch: int = 4,
    depth: int = 3,
    names_depth: int = 2,
    width: int = 128,
    vocab_size: int = 1024,
    temperature: float = 0.1,
    jitter: float = 1.0,
    batch_size: int = 64,
    steps: int = 500,
    matrix_rate: float = 0.02,
    vector_rate: float = 0.01,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
    workdir: Path | None = None,
) -> Experiment:
    """Images and names that find each other, by a contrastive objective.

    Args:
        source: emoji, a TFDS name of images with a text, or the path of a folder.
        language: the language of the names.
        patch: pixels along a patch's side.
        depth: blocks that read the patches.
        names_depth: blocks that read the names.
        width: features of a token, 32 for each head.
        vocab_size: symbols of the tokenizer, which is trained on the names.
        temperature: cosines are divided by it; the smaller, the more the nearest count.
        jitter: how far training images are moved; at 1 some 2 pixels and 12 degrees.
        batch_size: images in a step, told from each other.
        steps: of training.
        matrix_rate: peak learning rate of the blocks' matrices, by Muon.
        vector_rate: peak learning rate of all else, by Adam.
        dtype: of the products; auto is bfloat16 where the machine multiplies it fast.
        seed: of the parameters, the order of the images and how they are moved.
        workdir: where the tokenizer is kept; None keeps it in the user's cache only.
    """
    compute = cpu_tuning.compute_dtype() if dtype == "auto" else dtype
    model = matcher(
        source,
        language=language,
        patch=patch,
        depth=depth,
        names_depth=names_depth,
        width=width,
        vocab_size=vocab_size,
        workdir=workdir,
    )
    of = model.of

    def as_batch(
        row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        image, one = row.pop("image"), np.ones((), np.float32)
        return {"raw_BLP": of.to_patches(image), **row, "weight_B": one}

    def loss(params: Any, batch: dict[str, Any], _: jax.Array) -> Loss:
        narrow = {"params": precision.cast_weights(params, compute)}
        images_BZ, names_BZ = model.net.apply(narrow, *model.views(batch))
        return contrastive.clip_loss(
            images_BZ, names_BZ, batch["weight_B"], temperature=temperature
        )

    train = records.shuffled(
        of.encoder_split(of.data.train),
        batch_size=batch_size,
        seed=seed,
        prepare=augment.chain(augment.random_distortion(jitter), as_batch),
        name=of.data.name,
    )
    held_out = records.ordered(
        of.encoder_split(of.data.validation), batch_size=batch_size, prepare=as_batch
    )
    return Experiment(
        name="match",
        fingerprint=(
            f"two towers of {source}, {language}: {depth} blocks of width {width} read "
            f"patches of {patch}, {names_depth} names of {of.tokenizer.vocab_size} "
            f"symbols"
        ),
        init=model.init,
        loss=loss,
        batch=train.batch,
        batch_size=batch_size,
        optimizer=optimizers.muon_wsd(
            steps, matrix_rate=matrix_rate, vector_rate=vector_rate, decay=0.6
        ),
        steps=steps,
        metrics=report,
        seed=seed,
        evaluations={
            "validation": Evaluation(
                batch=held_out.batch,
                batch_size=batch_size,
                batches=held_out.batches,
                loss=loss,
                metrics=report,
            )
        },
        report=partial(show, model),
        extra_files={"tokenizer.json": of.tokenizer.to_bytes()},
        tokens_per_row=int(np.prod(of.grid)) + of.length,
    )


def judge(workdir: Path | None = None) -> Judge:
    """The trained model of the run in `workdir`, or the default one: trained once in
    the user's cache folder, and loaded ever after."""

    def stamp(flags: dict[str, Any]) -> str:
        known = caption_source.load(flags["source"], language=flags["language"])
        code = folder.source_of(clip.clip)
        return f"match-{storage.short_hash(known.identity, repr(flags), code)}"

    flags, params = pretrained.load_or_train(
        experiment,
        workdir,
        source=folder.source_of(matcher),
        keep=storage.cached_folder,
        stamp=stamp,
    )
    return matcher(**{name: flags[name] for name in SHAPE}).judge(params)


if __name__ == "__main__":
    main.main(experiment)
