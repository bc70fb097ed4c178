"""What a launcher's environment variables say of the processes of a run.

`jax.distributed.initialize` reads them too, and joins the processes. Here they are read
to log what was found, and to refuse what JAX meets with a wait, or with as many runs as
there are processes: flags that differ from them, and variables that do not suffice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class Cluster(NamedTuple):
    """The place of this process among those that a launcher started.

    size, index: variables that say so, as NAME=value. processes: how many; None where
    nothing says so. process: which one, from 0. one_per_host: whether each has a host,
    with all of its devices, for itself. remedy: what to do where JAX joins none.
    """

    launcher: str
    size: str
    index: str
    processes: int | None
    process: int
    one_per_host: bool
    remedy: str

    def check(self, processes: int, process: int) -> None:
        """Raise ValueError unless the flags of these values agree with the launcher."""
        if process != self.process or self.processes not in (None, processes):
            said = " ".join(filter(None, (self.size, self.index)))
            raise ValueError(
                f"--processes={processes} --process={process}: expected what "
                f"{self.launcher} says, got {said} in the environment; leave the flags "
                "out, or unset the variables"
            )

    def refuse_alone(self) -> None:
        """Raise ValueError where JAX joined no other process, though there are some:
        each would begin a run of its own."""
        if self.process > 0 or (self.processes or 1) > 1:
            said = " ".join(filter(None, (self.size, self.index)))
            raise ValueError(
                f"expected to join the processes of {self.launcher} ({said}), got no "
                f"coordinator: {self.remedy}"
            )


_FLAGS = "give --coordinator=host:port --processes={} --process=${}"


class _Launcher(NamedTuple):
    """The variables of a launcher: it started this process if it set all of `marks`.

    per_host: the variable that counts the processes of a host. reason: why JAX may not
    join them.
    """

    name: str
    size: str
    index: str
    marks: tuple[str, ...] = ()
    per_host: str = ""
    reason: str = ""

    def read(self, environment: Mapping[str, str]) -> Cluster | None:
        if not environment.keys() >= {self.size, self.index, *self.marks}:
            return None
        # SLURM writes one task on each of two nodes as 1(x2).
        per_host = environment.get(self.per_host, "")
        return Cluster(
            self.name,
            _setting(environment, self.size),
            _setting(environment, self.index),
            _number(environment, self.size),
            _number(environment, self.index),
            re.fullmatch(r"1(\(x\d+\))?", per_host) is not None,
            self.reason + _FLAGS.format(f"${self.size}", self.index),
        )


_OPEN_MPI = _Launcher(
    "Open MPI",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    per_host="OMPI_COMM_WORLD_LOCAL_SIZE",
    reason="JAX needs OMPI_MCA_orte_hnp_uri, which Open MPI 5 does not set (from JAX "
    "0.12 on mpi4py joins its processes: pip install mpi4py); ",
)
_SLURM = _Launcher(
    "SLURM",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    # A script of sbatch, which srun did not start, has no step.
    marks=("SLURM_JOB_ID", "SLURM_STEP_NODELIST"),
    per_host="SLURM_STEP_TASKS_PER_NODE",
)
# JAX does not join the processes of these.
_MPI = _Launcher("MPI", "PMI_SIZE", "PMI_RANK")
_TORCHRUN = _Launcher("torchrun", "WORLD_SIZE", "RANK")
_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
_JOB_INDEX = "JOB_COMPLETION_INDEX"


def detect(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster that `environment` describes; None where no launcher says anything,
    as on a TPU VM, whose metadata JAX asks. Of several the one that JAX takes: mpirun
    within a SLURM job sets the variables of both. ValueError for one that is no number.
    """
    readers = (
        _OPEN_MPI.read,
        _SLURM.read,
        _tpu_hosts,
        _MPI.read,
        _TORCHRUN.read,
        _kubernetes_job,
    )
    return next(filter(None, (read(environment) for read in readers)), None)


def _tpu_hosts(environment: Mapping[str, str]) -> Cluster | None:
    """Hosts of TPU slices as GKE lists them; those of one slice follow each other."""
    for variable in _HOSTS:
        if variable in environment:
            break
    else:
        return None
    hosts = len(environment[variable].split(","))
    if hosts > 1 and "TPU_WORKER_ID" not in environment:
        raise ValueError(f"TPU_WORKER_ID: expected one beside {variable}, got none")
    slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
    index = _number(environment, "MEGASCALE_SLICE_ID", 0) * hosts
    index += _number(environment, "TPU_WORKER_ID", 0)
    return Cluster(
        "the TPU hosts of GKE",
        _setting(environment, variable),
        _setting(environment, "TPU_WORKER_ID"),
        hosts * slices,
        index,
        one_per_host=False,
        remedy="JAX finds no TPU here; it needs the chips and pip install '.[tpu]'",
    )


def _kubernetes_job(environment: Mapping[str, str]) -> Cluster | None:
    """A pod of an indexed Job; the environment does not say of how many pods."""
    if _JOB_INDEX not in environment:
        return None
    return Cluster(
        "the Kubernetes Job",
        "",
        _setting(environment, _JOB_INDEX),
        None,
        _number(environment, _JOB_INDEX),
        one_per_host=False,
        remedy=_FLAGS.format("N", _JOB_INDEX),
    )


def _setting(environment: Mapping[str, str], name: str) -> str:
    return f"{name}={environment[name]}" if name in environment else ""


def _number(environment: Mapping[str, str], name: str, default: int = 0) -> int:
    text = environment.get(name, "") or str(default)
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name}: expected a whole number, got {text!r}")
    return int(text)
