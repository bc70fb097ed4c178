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

# Flags of the dtypes of what an update keeps and adds up.
STORED = "state_dtype", "gradient_dtype"


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
        print(_without_remat(experiment).derived_line(), flush=True)
    works = theory.works_of(experiment)
    texts = meshes or [f"fsdp:{found.slice_size}"]
    if texts == ["auto"]:
        ranked = plans.candidates(experiment, found, works)
        print(f"meshes as counted, the best first:\n{table.comparison(ranked)}\n")
        sizes = [dict(ranked[0].mesh)]
    else:
        sizes = [launch.mesh_sizes(text) for text in texts]
    made = []
    with compilation.exclusive() if compiles else contextlib.nullcontext():
        for one in sizes:
            made.append(_plan(experiment, found, one, works, compiles))
            refused = isinstance(made[-1], plans.Refusal)
            text = table.verdict if refused else table.lines
            print(text(made[-1]), flush=True)
    if len(made) > 1:
        print(table.comparison(made))
    wide = [name for name in STORED if chosen.get(name) == "float32"]
    if wide and not any(one.fits for one in made):
        flags = " ".join(f"--{name}=bfloat16" for name in wide)
        print(f"half the bytes of the optimizer's moments or of gradients: {flags}")
    if file is not None:
        try:
            storage.commit(file, table.to_json(made).encode())
        except OSError as error:
            raise ValueError(
                f"--json_file: expected to write it, got {error}"
            ) from None
    return 0 if any(one.fits for one in made) else 1


def _without_remat(experiment: Any) -> Any:
    """Without the remat policy, where each mesh has its own."""
    from transformer.training import remat

    names = {*experiment.derived} - ({"remat"} if remat.policies(experiment) else set())
    kept = {name: v for name, v in experiment.derived.items() if name in names}
    return experiment._replace(derived=kept)


def _plan(
    experiment: Any, topology: Topology, sizes: Any, works: Any, compiles: bool
) -> Any:
    """The plan, or the refusal, of one mesh: of the experiment that fits as counted,
    or, as compiled, with the next remat policies until one fits."""
    from transformer.planning import plan as plans
    from transformer.planning import table
    from transformer.training import remat

    made = plans.fit(experiment, topology, sizes, works)
    if made.accumulate > experiment.accumulate:
        print(f"as counted, {made.accumulate} microbatches fit", flush=True)
    while True:
        if remat.policies(made):
            print(f"remat: {remat.policy(made)}", flush=True)
        how: Any = {"compile_it": compiles, "work": works(made)}
        try:
            found = plans.make(made, topology, sizes, **how)
        except compilation.DoesNotFitError as error:
            found = plans.refusal(topology, sizes, str(error))
        more = remat.after(made)
        if found.fits or not compiles or more is None:
            return found
        print(table.verdict(found), flush=True)
        made = more


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
