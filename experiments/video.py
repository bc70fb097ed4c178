"""Can a film be continued by one who has seen six frames of it?

    python -m experiments.video
    python -m experiments.video generate --draw=3

Two digits move and bounce in 24 x 24 pixels; tubelets of 4 x 4 in one frame, attention
within frames and along time by turns, 6 blocks of width 128, 1.3 M parameters, 1000
steps. Squared error a pixel on 256 films of held-out digits, 1, 5 and 10 frames ahead:
**0.011, 0.029, 0.035**. The last frame again 0.060, 0.091, 0.057; each block moved as
it was seen to move 0.040, 0.072, 0.061; each digit moved on by its true velocity, which
only misses the walls, 0.017, 0.076, 0.067. 9 min 7 s on two busy cores, 396 s of CPU
time.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer import cpu_tuning, main
from transformer.data import records
from transformer.data.sources import images as image_source
from transformer.data.images import gray_levels, moving_digits, patches
from transformer.generation import terminal_images
from transformer.models import video
from transformer.network import masks, precision
from transformer.objectives import denoising
from transformer.objectives.loss import Loss
from transformer.plots import image_grid
from transformer.training import optimizers
from transformer.training.experiment import Evaluation, Experiment

FRAMES, KNOWN = 16, 6
BLOCK = 6
SIDE, SPRITES, FASTEST = 24, 2, 2
# The velocity shows in two frames; before that there is nothing to tell.
FIRST = 1
AT_ONCE, STUDIED = 32, 256
AHEAD = (1, 5, 10)
SHOWN = (5, 6, 7, 8, 10, 12, 14, 15)


class Cinema(NamedTuple):
    """A predictor of films of `digits` [N, h, w, 1] by tubelets of `size`, without
    parameters."""

    data: records.Records
    net: Any
    size: tuple[int, int, int]
    dtype: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        return FRAMES, SIDE, SIDE

    @property
    def per_frame(self) -> int:
        """Tokens of a frame."""
        return math.prod(patches.grid(self.shape, self.size)) // FRAMES

    def raw(self, film: np.ndarray) -> np.ndarray:
        """8-bit frames as greys from 0 to 1 in raw tubelets."""
        return patches.cut(film.astype(np.float32) / 255, self.size)

    def films(self, raw_BLP: Any, frames: int = FRAMES) -> np.ndarray:
        """The inverse, clipped: 8-bit [B, frames, rows, columns, 1]."""
        shape = frames, SIDE, SIDE
        pixels = patches.join(np.asarray(raw_BLP), shape, self.size)
        return np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)

    def filmed(
        self, digits: np.ndarray, row: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """A film of the row's digit and others of `digits`: `raw_BLP`; and how it would
        go on from `KNOWN` frames without walls, `straight_BLP`."""
        others = digits[rng.integers(len(digits), size=SPRITES - 1)]
        sprites = np.concatenate([row["image"][None], others])
        room = SIDE - sprites.shape[1]
        motion = moving_digits.random_motion(rng, SPRITES, room=room, max_speed=FASTEST)
        draw = partial(moving_digits.render, sprites, side=SIDE)
        film = draw(moving_digits.positions(motion, FRAMES, room=room))
        straight = draw(moving_digits.no_bounce(motion, KNOWN, FRAMES, room=room))
        return {"raw_BLP": self.raw(film), "straight_BLP": self.raw(straight)}

    def logits(self, params: Any, raw_BLP: jax.Array) -> jax.Array:
        """Of the greys of each token's place one frame later."""
        tokens = masks.single_document(raw_BLP.shape[1])
        narrow = precision.cast_weights(params, self.dtype)
        return self.net.apply({"params": narrow}, raw_BLP, tokens)

    def foretold(self, params: Any, raw_BLP: jax.Array) -> jax.Array:
        """The film with all frames from `KNOWN` on foretold one after the other, each
        from those before it, foretold ones among them."""
        size = self.per_frame

        def step(frame: jax.Array, film_BLP: jax.Array) -> jax.Array:
            said_BLP = jax.nn.sigmoid(self.logits(params, film_BLP))
            at = (frame - 1) * size
            next_BLP = jax.lax.dynamic_slice_in_dim(said_BLP, at, size, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(
                film_BLP, next_BLP, frame * size, axis=1
            )

        return jax.lax.fori_loop(KNOWN, FRAMES, step, raw_BLP)


def errors(cinema: Cinema, ours: Any, batch: dict[str, Any]) -> dict[str, np.ndarray]:
    """Squared error a pixel of each film [B], `AHEAD` frames ahead, by who tells."""
    size = cinema.per_frame
    true = batch["raw_BLP"]

    def frame(film: Any, number: int) -> np.ndarray:
        return np.asarray(film[:, number * size : (number + 1) * size])

    def pixels(number: int) -> np.ndarray:
        return np.asarray(
            patches.join(frame(true, number), (1, SIDE, SIDE), cinema.size)
        )[:, 0]

    def seen(ahead: int) -> np.ndarray:
        pairs = zip(pixels(KNOWN - 2), pixels(KNOWN - 1), strict=True)
        how = {"block": BLOCK, "fastest": FASTEST}
        guesses = [
            moving_digits.block_motion(*pair, ahead, **how)[None] for pair in pairs
        ]
        return patches.cut(np.stack(guesses), cinema.size)

    found = {}
    for ahead in AHEAD:
        wanted = frame(true, KNOWN + ahead - 1)
        said = {
            "ours": frame(ours, KNOWN + ahead - 1),
            "the last frame": frame(true, KNOWN - 1),
            "motion as seen": seen(ahead),
            "true velocities, no walls": frame(batch["straight_BLP"], ahead - 1),
        }
        for name, guess in said.items():
            error = np.square(guess - wanted).mean((1, 2))
            found[f"squared error {ahead} ahead, {name}"] = error
    return found


def strips(cinema: Cinema, ours: Any, batch: dict[str, Any], count: int) -> np.ndarray:
    """A sheet: for each film what came, what was foretold, and linear motion."""
    straight = np.concatenate(
        [batch["raw_BLP"][:, : KNOWN * cinema.per_frame], batch["straight_BLP"]], axis=1
    )
    rows = [
        cinema.films(film)[:count][:, list(SHOWN)]
        for film in (batch["raw_BLP"], ours, straight)
    ]
    sheet = np.stack(rows, axis=1).reshape(-1, len(SHOWN), SIDE, SIDE, 1)
    return image_grid.sheet(sheet, zoom=3)


def show(
    cinema: Cinema, held_out: Evaluation, params: Any, key: jax.Array
) -> dict[str, Any]:
    """Errors by how far ahead, a strip of frames, and a moving picture."""
    foretell, found, kept = jax.jit(cinema.foretold), [], []
    for step in range(STUDIED // AT_ONCE):
        batch = held_out.batch(step, range(AT_ONCE))
        ours = np.asarray(foretell(params, batch["raw_BLP"]))
        found.append(errors(cinema, ours, batch))
        kept.append((ours, batch))
    numbers = {
        name: float(np.concatenate([part[name] for part in found]).mean())
        for name in found[0]
    }
    ours, batch = kept[0]
    pairs = np.stack([cinema.films(batch["raw_BLP"]), cinema.films(ours)])[:, :4]
    return {
        "results.json": numbers,
        "strips.png": strips(cinema, ours, batch, 3),
        "film.gif": image_grid.gif(pairs, known=KNOWN),
    }


def generate(cinema: Cinema, params: Any, key: jax.Array, *, draw: int = 0) -> None:
    """Foretell a film on the terminal: what came, and below it what was foretold.

    Args:
        draw: which film; another number makes another.
    """
    rng = np.random.default_rng(draw)
    digits = cinema.data.validation["image"]
    row = {"image": digits[rng.integers(len(digits))]}
    raw_BLP = cinema.filmed(digits, row, rng)["raw_BLP"][None]
    ours = np.asarray(jax.jit(cinema.foretold)(params, raw_BLP))
    for film in (raw_BLP, ours):
        print(terminal_images.ascii_art(cinema.films(film)[0][[KNOWN - 1, KNOWN, 10, 15]]), "\n")


def report(loss: Loss) -> dict[str, float]:
    """Cross-entropy of a pixel in nats, and its squared error one frame ahead."""
    weight = float(loss.weight)
    error = float(loss.sums["squared_error"]) / weight
    return {"loss": float(loss.total) / weight, "squared_error": error}


def experiment(
    *,
    source: str = "digits",
    patch: int = 4,
    depth: int = 6,
    width: int = 128,
    batch_size: int = 8,
    steps: int = 1000,
    matrix_rate: float = 0.02,
    vector_rate: float = 0.005,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    seed: int = 0,
) -> Experiment:
    """A predictor of the next frame of films of moving digits.

    Args:
        source: digits, a TFDS name of labelled images, or the path of class folders.
        patch: pixels along a tubelet's side; it is a frame deep.
        depth: blocks, by turns within frames and along time.
        width: features of a token, 32 for each head.
        batch_size: films in a step.
        steps: of training.
        matrix_rate: peak learning rate of the blocks' matrices, by Muon.
        vector_rate: peak learning rate of all else, by Adam.
        dtype: of the products; auto is bfloat16 where the machine multiplies it fast.
        seed: of the parameters and the films.
    """
    compute = cpu_tuning.compute_dtype() if dtype == "auto" else dtype
    data, size = image_source.load(source), (1, patch, patch)
    train, held = (
        {"image": gray_levels.downsample(part["image"], 2)}
        for part in (data.train, data.validation)
    )
    data = data._replace(train=train, validation=held)
    places = patches.grid((SIDE, SIDE), size[1:])
    net = video.video_predictor(
        frames=FRAMES, grid=places, patch_features=patch**2, depth=depth, width=width
    )
    cinema = Cinema(data, net, size, compute)
    length = FRAMES * cinema.per_frame

    def loss(params: Any, batch: dict[str, Any], key: jax.Array) -> Loss:
        raw_BLP = batch["raw_BLP"]
        next_BLP = jnp.roll(raw_BLP, -cinema.per_frame, axis=1)
        frame_L = jnp.arange(length) // cinema.per_frame
        told_L = (frame_L >= FIRST) & (frame_L < FRAMES - 1)
        row_B = jnp.asarray(batch.get("weight_B", jnp.ones(len(raw_BLP))))
        return denoising.pixel_cross_entropy(
            cinema.logits(params, raw_BLP), next_BLP, told_L[None] * row_B[:, None]
        )

    films_ = records.shuffled(
        train,
        batch_size=batch_size,
        seed=seed,
        prepare=partial(cinema.filmed, train["image"]),
        name=data.name,
    )
    held_out = records.ordered(
        {"image": held["image"][:STUDIED]},
        batch_size=AT_ONCE,
        prepare=partial(cinema.filmed, held["image"]),
    )
    measured = Evaluation(held_out.batch, AT_ONCE, held_out.batches, loss, report)
    init = partial(video.init_params, net, length=length)
    return Experiment(
        name="foresee",
        fingerprint=(
            f"video transformer: {depth} blocks of width {width}, {FRAMES} frames of "
            f"{places[0]} x {places[1]} tubelets"
        ),
        init=init,
        loss=loss,
        batch=films_.batch,
        batch_size=batch_size,
        optimizer=optimizers.muon_wsd(
            steps, matrix_rate=matrix_rate, vector_rate=vector_rate
        ),
        steps=steps,
        metrics=report,
        seed=seed,
        evaluations={"validation": measured},
        report=partial(show, cinema, measured),
        generate=partial(generate, cinema),
        tokens_per_row=length,
    )


if __name__ == "__main__":
    main.main(experiment, generate=generate)
