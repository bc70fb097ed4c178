"""Does a name that was never read find its picture, and the picture its name?

    python -m experiments.clip
    python -m experiments.clip --tongue=pt --workdir=runs/match-pt

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

from transformer import cpu_tuning, main
from transformer.data import cache, captioned_images, records, sources
from transformer.data.images import augment
from transformer.evaluation import retrieval
from transformer.evaluation.baselines import linear_probe, tfidf
from transformer.models import clip
from transformer.network import masks, precision
from transformer.objectives import contrastive
from transformer.objectives.loss import Loss
from transformer.training import optimizers, pretrained
from transformer.training import workdir as folder
from transformer.training.experiment import Evaluation, Experiment

SHOWN = 10
# The flags that say which model it is.
SHAPE = (
    *("source", "tongue", "patch", "depth", "names_depth", "width", "vocabulary"),
    "workdir",
)


class Judge(NamedTuple):
    """Vectors of length 1, [N, F] float32, of 8-bit images [N, rows, columns, 3] and of
    names; the nearer an image's to a name's, the better they match."""

    images: Any
    names: Any


class Matcher(NamedTuple):
    """Two towers of images and their names, without parameters."""

    of: captioned_images.Pictured
    net: Any

    def views(self, batch: dict[str, Any]) -> tuple[Any, ...]:
        """Raw patches, names, and where the tokens of both stand."""
        segment_BL = jnp.asarray(batch["segment_BL"])
        of_name = masks.packed(segment_BL, jnp.arange(segment_BL.shape[1])[None])
        seen = batch["raw_BLP"], masks.row(batch["raw_BLP"].shape[1])
        return *seen, batch["ids_BL"], of_name

    def init(self, key: jax.Array) -> Any:
        """Parameters."""
        one = self.of.read({name: a[:1] for name, a in self.of.data.train.items()})
        views = self.views({"raw_BLP": self.of.raw(one.pop("image")), **one})
        return self.net.init(key, *views)["params"]

    def judge(self, params: Any) -> Judge:
        """With these parameters."""
        params = jax.tree.map(jnp.asarray, params)

        @jax.jit
        def of_images(raw_BLP: jax.Array) -> jax.Array:
            seen = raw_BLP, masks.row(raw_BLP.shape[1])
            return self.net.apply({"params": params}, *seen, method="of_first")

        @jax.jit
        def of_names(both_BIL: jax.Array) -> jax.Array:
            ids_BL, segment_BL = both_BIL[:, 0], both_BIL[:, 1]
            tokens = masks.packed(segment_BL, jnp.arange(self.of.length)[None])
            return self.net.apply(
                {"params": params}, ids_BL, tokens, method="of_second"
            )

        def images(images: np.ndarray) -> np.ndarray:
            return linear_probe.in_parts(
                lambda some: of_images(self.of.raw(some)), images
            )

        def names(texts: captioned_images.Texts) -> np.ndarray:
            rows = self.of.closed(texts)
            both = np.stack([rows["ids_BL"], rows["segment_BL"]], 1)
            return linear_probe.in_parts(of_names, both)

        return Judge(images, names)


def matcher(
    source: str,
    *,
    tongue: str,
    patch: int,
    depth: int,
    names_depth: int,
    width: int,
    vocabulary: int,
    workdir: Path | None,
) -> Matcher:
    """ValueError where patches do not fill the images."""
    of = captioned_images.pictured(
        source, tongue=tongue, patch=patch, vocabulary=vocabulary, workdir=workdir
    )
    net = clip.images_and_names(
        places=of.places,
        features=of.features,
        vocabulary=of.symbols.vocabulary,
        depth=depth,
        names_depth=names_depth,
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
    near = tfidf.nearest(list(known["text"]), list(held["text"])).number
    by_memory = retrieval.nearness(known["image"][near], held["image"])
    searches = {
        "image by name": rank,
        "name by image": retrieval.ranks(images @ names.T),
        "image by memory": retrieval.ranks(by_memory),
    }
    results: dict[str, Any] = {"images": len(rank), "chance": 1 / len(rank)}
    for of, some in searches.items():
        for what, number in retrieval.recalls(some).items():
            results[f"{what}, {of}"] = number
    chosen = np.asarray(jax.random.permutation(key, len(rank)))[:SHOWN]
    ranked = sorted(zip(rank, held["text"], strict=True))
    lines = [f"{r:4d}  {name}" for r, name in ranked]
    return {
        "results.json": results,
        "found.png": retrieval.found(
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
    tongue: Literal["en", "pt"] = "en",
    patch: int = 4,
    depth: int = 3,
    names_depth: int = 2,
    width: int = 128,
    vocabulary: int = 1024,
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
        tongue: the language of the names.
        patch: pixels along a patch's side.
        depth: blocks that read the patches.
        names_depth: blocks that read the names.
        width: features of a token, 32 for each head.
        vocabulary: symbols of the tokenizer, which is trained on the names.
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
        tongue=tongue,
        patch=patch,
        depth=depth,
        names_depth=names_depth,
        width=width,
        vocabulary=vocabulary,
        workdir=workdir,
    )
    of = model.of

    def as_batch(
        row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        image, one = row.pop("image"), np.ones((), np.float32)
        return {"raw_BLP": of.raw(image), **row, "weight_B": one}

    def loss(params: Any, batch: dict[str, Any], _: jax.Array) -> Loss:
        narrow = {"params": precision.cast(params, compute)}
        images_BF, names_BF = model.net.apply(narrow, *model.views(batch))
        return contrastive.symmetric(
            images_BF, names_BF, batch["weight_B"], temperature=temperature
        )

    train = records.shuffled(
        of.read(of.data.train),
        batch_size=batch_size,
        seed=seed,
        prepare=augment.chain(augment.jittered(jitter), as_batch),
        name=of.data.name,
    )
    held_out = records.ordered(
        of.read(of.data.validation), batch_size=batch_size, prepare=as_batch
    )
    return Experiment(
        name="match",
        architecture=(
            f"two towers of {source}, {tongue}: {depth} blocks of width {width} read "
            f"patches of {patch}, {names_depth} names of {of.symbols.vocabulary} "
            f"symbols"
        ),
        init=model.init,
        loss=loss,
        batch=train.batch,
        batch_size=batch_size,
        optimizer=optimizers.stable_muon(
            steps, matrix_rate=matrix_rate, vector_rate=vector_rate, decay=0.6
        ),
        steps=steps,
        report=report,
        seed=seed,
        evaluations={
            "validation": Evaluation(
                batch=held_out.batch,
                batch_size=batch_size,
                batches=held_out.batches,
                loss=loss,
                report=report,
            )
        },
        show=partial(show, model),
        files={"tokenizer.json": of.symbols.to_bytes()},
        tokens_per_row=int(np.prod(of.places)) + of.length,
    )


def judge(workdir: Path | None = None) -> Judge:
    """The trained model of the run in `workdir`, or the default one: trained once in
    the user's cache folder, and loaded ever after."""

    def stamp(flags: dict[str, Any]) -> str:
        known = sources.captions(flags["source"], language=flags["tongue"])
        code = folder.source_of(clip.images_and_names)
        return f"match-{cache.digest(known.identity, repr(flags), code)}"

    flags, params = pretrained.lent(
        experiment,
        workdir,
        source=folder.source_of(matcher),
        keep=cache.folder,
        stamp=stamp,
    )
    return matcher(**{name: flags[name] for name in SHAPE}).judge(params)


if __name__ == "__main__":
    main.run(experiment)
