"""A training run as a value: a tuple of pure functions over a parameter pytree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from transformer import checks, cpu_tuning

Params = Any
Batch = dict[str, np.ndarray]
LossFn = Callable[[Params, Any, jax.Array], Any]
BatchFn = Callable[[int, Sequence[int]], Batch]
Metrics = Callable[[Any], dict[str, float]]
Dtype = Literal["auto", "float32", "bfloat16"]
StoredDtype = Literal["float32", "bfloat16"]


class Run(NamedTuple):
    """The settings of every run; `declare` makes each field a flag of the experiment.
    Before a run begins, `workdir` is None, or `init_from` if that has a tokenizer
    (`command.make_experiment`).

    Args:
        steps: training steps.
        batch_size: rows of a training step.
        dtype: compute dtype; auto is bfloat16 where the machine multiplies it fast.
        seed: of the parameters, the order of the rows, the noise and the samples.
        workdir: run folder, default runs/NAME; its tokenizer is used if it has one.
        init_from: a run folder, whose parameters and tokenizer a new run starts from.
        init_partial: accept parameters that are new, left over or of another shape.
        freeze: regular expression of the paths of parameters that are not trained.
        ema_decay: per step, of a moving average of the parameters; 0 keeps none.
        state_dtype: of the optimizer's moments; bfloat16 rounds them stochastically.
        gradient_dtype: in which gradients are added over devices and microbatches.
    """

    steps: checks.Count
    batch_size: checks.Count
    dtype: Dtype = "auto"
    seed: checks.Seed = 0
    workdir: checks.Folder | None = None
    init_from: checks.Folder | None = None
    init_partial: bool = False
    freeze: str = ""
    ema_decay: Annotated[checks.ProperFraction, checks.FIXED] = 0.0
    state_dtype: Annotated[StoredDtype, checks.FIXED] = "float32"
    gradient_dtype: StoredDtype = "float32"

    @property
    def compute_dtype(self) -> str:
        """`dtype`, with auto resolved for this machine."""
        return cpu_tuning.compute_dtype() if self.dtype == "auto" else self.dtype


# (steps, *, learning rates and other flags) -> the optax pair.
Optimizer = Callable[..., optax.GradientTransformation]


# What every experiment that trains can do; `Experiment.verbs` adds others.
TRAINING_VERBS = ("train", "evaluate", "report", "benchmark", "sweep", "plan")


def no_loss(params: Params, batch: Any, key: jax.Array) -> Any:
    """The loss of an experiment that does not train: its parameters are only used."""
    raise ValueError("expected an experiment that trains, got one without a loss")


class Evaluation(NamedTuple):
    """A measurement on held-out data: the Loss summed over `batches` batches.

    batch(step, rows): those rows of batch number `step`. metrics: from the summed Loss
    to named numbers.
    """

    batch: BatchFn
    batch_size: int
    batches: int
    loss: LossFn
    metrics: Metrics

    @classmethod
    def from_split(cls, split: Any, loss: LossFn, metrics: Metrics) -> Evaluation:
        """An evaluation on all rows of `split`, which has `batch`, `batch_size` and
        `batches`."""
        return cls(split.batch, split.batch_size, split.batches, loss, metrics)


class Experiment(NamedTuple):
    """A run. Each field is a function or a number; none has state.

    fingerprint: describes the model; a run folder of another one is refused. name: of
    the experiment and its run folder; `declare` and `derive` fill in the file's.
    init(key) -> params: nested dictionaries of float32 arrays.
    loss(params, batch, key) -> Loss(total, weight, sums).
    remat_losses: `loss` by remat policy, from the one that recomputes least, of which
    the memory of a device chooses one (`remat.fit`); as it is if it is none of them.
    batch(step, rows) -> those rows of the step's global batch, 0 .. batch_size - 1.
    optimizer: an optax pair. steps: of training. accumulate: microbatches per step.
    accumulate_to_fit: more of them where a device cannot hold the step.
    gradient_dtype: in which gradients are added over devices and microbatches.
    derived: sizes that the experiment chose, by name, printed at the start of a run and
    kept in its record.
    seed: of the parameters and the steps' keys. metrics(Loss) -> named numbers.
    evaluations: name -> Evaluation.
    report(params, key) -> file name to content (text, bytes, image array, figure, or
    numbers by name, which are printed at the end of the run).
    generate(params, key, *, ...): its keywords are the flags of the verb `generate`.
    verbs: name -> f(params, workdir, *, ...), further verbs, whose keywords are flags.
    extra_files: written to the run folder at the start. tokens_per_row: of the model.
    benchmarks: further lines of the verb `benchmark`, each a function of params.
    net, tokenizer, data: what the run was built from, for notebooks and derived
    experiments.
    warm_start: a `warm_start.WarmStart`, applied before the first step of a new run.
    """

    fingerprint: str
    init: Callable[[jax.Array], Params]
    loss: LossFn
    batch: BatchFn
    batch_size: int
    optimizer: optax.GradientTransformation
    steps: int
    metrics: Metrics
    name: str = ""
    accumulate: int = 1
    accumulate_to_fit: bool = False
    remat_losses: Mapping[str, LossFn] = {}
    gradient_dtype: str = "float32"
    derived: Mapping[str, Any] = {}
    seed: int = 0
    evaluations: Mapping[str, Evaluation] = {}
    report: Callable[[Params, jax.Array], Mapping[str, Any]] = lambda params, key: {}
    generate: Callable[..., Any] | None = None
    verbs: Mapping[str, Callable[..., Any]] = {}
    extra_files: Mapping[str, bytes] = {}
    tokens_per_row: int = 1
    benchmarks: Mapping[str, Callable[[Params], Mapping[str, float]]] = {}
    net: Any = None
    tokenizer: Any = None
    data: Any = None
    warm_start: Any = None

    @property
    def decay_step(self) -> int | None:
        """The last step whose state does not depend on `steps`, if the optimizer says
        so (`optimizers.ScheduledOptimizer`)."""
        return getattr(self.optimizer, "decay_step", None)

    def derived_line(self) -> str:
        """`derived` as a line: name value, name value, ..."""
        facts = (
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
            for name, value in self.derived.items()
        )
        return f"sizes: {', '.join(facts)}"

    @property
    def data_fingerprint(self) -> str:
        """A hash of the data; empty where `data` has none."""
        return str(getattr(self.data, "fingerprint", ""))

    @property
    def offered_verbs(self) -> dict[str, Callable[..., Any]]:
        """`verbs` and `generate`, each as f(params, workdir, *, ...)."""
        if self.generate is None:
            return dict(self.verbs)

        def generate(params: Params, workdir: Path, **options: Any) -> Any:
            return self.generate(params, jax.random.key(self.seed), **options)  # pyright: ignore

        return {"generate": generate, **self.verbs}

    def require_verb(self, verb: str) -> None:
        """ValueError for a verb that this experiment does not offer."""
        trains = () if self.loss is no_loss else TRAINING_VERBS
        offered = (*trains, *self.offered_verbs)
        if verb not in offered:
            raise ValueError(
                f"verb: expected one of {', '.join(offered)}, which "
                f"{self.fingerprint.partition(', ')[0] or self.name} offers; got {verb}"
            )

    @classmethod
    def without_training(cls, run: Run, **fields: Any) -> Experiment:
        """An experiment whose parameters are only used, by its verbs. fields: those of
        an Experiment that are not about training."""
        return cls(
            loss=no_loss,
            batch=lambda step, rows: {},
            batch_size=run.batch_size,
            optimizer=optax.identity(),
            steps=run.steps,
            seed=run.seed,
            metrics=lambda loss: {},
            **fields,
        )

    @classmethod
    def from_run(
        cls,
        run: Run,
        optimizer: Optimizer,
        splits: tuple[Any, Any],
        *,
        parts: Mapping[str, Any] = {},
        loss: LossFn,
        metrics: Metrics,
        validation_loss: LossFn | None = None,
        accumulate: int | None = 1,
        **fields: Any,
    ) -> Experiment:
        """The experiment of `run` on the pair `splits`: training rows, and held-out
        rows for the evaluation `validation`.

        parts: further held-out rows, by the name of their evaluation.
        validation_loss: `loss` if None. accumulate: None for as few microbatches as a
        device can hold. fields: the other fields of an Experiment. A text tokenizer is
        one of its `extra_files`: the run on other data, or started from, has it too.
        """
        train, held_out = splits
        evaluations = {
            name: Evaluation.from_split(split, validation_loss or loss, metrics)
            for name, split in {"validation": held_out, **parts}.items()
        }
        if fields.get("derived") and train.rows_per_epoch:
            epochs = run.steps * run.batch_size / train.rows_per_epoch
            fields["derived"] = {**fields["derived"], "epochs": float(f"{epochs:.2g}")}
        # Tokens of pixels follow from the flags; those of text from the data.
        if hasattr(fields.get("tokenizer"), "to_bytes"):
            stored = {"tokenizer.json": fields["tokenizer"].to_bytes()}
            fields["extra_files"] = stored | dict(fields.get("extra_files", {}))
        return cls(
            accumulate=accumulate or 1,
            accumulate_to_fit=accumulate is None,
            batch=train.batch,
            batch_size=run.batch_size,
            optimizer=optimizer(run.steps),
            steps=run.steps,
            seed=run.seed,
            loss=loss,
            metrics=metrics,
            evaluations=evaluations,
            **fields,
        )
