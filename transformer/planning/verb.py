"""The verb `plan`: what a run needs, and how long it takes, before it is paid for."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Literal

from transformer import checks, command, launch, storage
from transformer.flags import ExperimentFn
from transformer.planning import compilation
from transformer.planning.chips import Topology, parse


def plan(
    *,
    topology: str = "",
    method: Literal["auto", "compile", "count"] = "auto",
    json_file: Path | None = None,
) -> None:
    """What a run needs on chips that are not here. --mesh may be given several times;
    auto is the best of the sensible meshes, as counted.

    Args:
        topology: chips, as v5e:16x16, 2xv5e:16x16 (two slices), v5p:8x8x8 or h100:64.
        method: compile the step with libtpu, or count; auto compiles where it can.
        json_file: where to write all numbers too.
    """


def execute(argv: list[str], make: ExperimentFn) -> int:
    """Print the plans of a command line. Returns the exit status: 1 where no plan fits.

    ValueError for bad flags, axes that do not fill the topology, and a method that is
    not to be had.
    """
    meshes, rest = _meshes(argv)
    parsed = command.parse(["plan", *rest], make, {"plan": plan})
    found = parse(parsed.verb_flags["topology"])
    compiles = _compiles(parsed.verb_flags["method"], found)
    file = parsed.verb_flags["json_file"]
    checks.output_file("--json_file", file)
    os.environ.update(compilation.ENVIRONMENT if compiles else {"JAX_PLATFORMS": "cpu"})
    from transformer.planning import plan as plans
    from transformer.planning import table, theory

    chosen = parsed.experiment_flags
    if chosen.get("dtype") == "auto":
        chosen["dtype"] = "bfloat16"
    experiment = command.make_experiment(make, chosen, parsed.workdir)
    experiment.require_verb("train")
    if experiment.derived:
        print(experiment.derived_line(), flush=True)
    work = theory.work_of(experiment)
    texts = meshes or [f"fsdp:{found.slice_size}"]
    if texts == ["auto"]:
        ranked = plans.candidates(experiment, found, work)
        print(f"meshes as counted, the best first:\n{table.comparison(ranked)}\n")
        sizes = [dict(ranked[0].mesh)]
    else:
        sizes = [launch.mesh_sizes(text) for text in texts]
    made = []
    with compilation.exclusive() if compiles else contextlib.nullcontext():
        for one in sizes:
            divided, counted = plans.divide_to_fit(experiment, found, one, work)
            if divided.accumulate > experiment.accumulate:
                print(f"as counted, {divided.accumulate} microbatches fit", flush=True)
            how: Any = {"compile_it": compiles, "work": counted}
            try:
                made.append(plans.make(divided, found, one, **how))
                print(table.lines(made[-1]), flush=True)
            except compilation.DoesNotFitError as error:
                made.append(plans.refusal(found, one, str(error)))
                print(table.verdict(made[-1]), flush=True)
    if len(made) > 1:
        print(table.comparison(made))
    if file is not None:
        try:
            storage.commit(file, table.to_json(made).encode())
        except OSError as error:
            raise ValueError(
                f"--json_file: expected to write it, got {error}"
            ) from None
    return 0 if any(one.fits for one in made) else 1


def _meshes(argv: list[str]) -> tuple[list[str], list[str]]:
    """The values of --mesh, in each form that a flag has, and the other arguments."""
    meshes, rest = [], []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in ("--mesh", "-mesh"):
            meshes.append(value if equals else next(arguments, ""))
        else:
            rest.append(argument)
    return meshes, rest


def _compiles(method: str, topology: Topology) -> bool:
    """Whether to compile the step."""
    possible = topology.chip.is_tpu and compilation.is_possible()
    if method == "compile" and not possible:
        raise ValueError(
            "--method: expected a topology of TPUs and libtpu, pip install "
            f"'transformer[plan]', to compile for {topology}; got none"
        )
    return possible and method != "count"
