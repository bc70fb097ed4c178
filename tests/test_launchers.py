"""Processes that a launcher started, as its environment variables describe them."""

import os
import signal
import socket
import time

import commands
import pytest
from jax._src import cloud_tpu_init, clusters
from jax._src.clusters import cloud_tpu_cluster

from transformer import launch, launchers, runtime_messages

OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1,10.96.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
}
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
GKE = {"TPU_WORKER_HOSTNAMES": "a-0.a,a-1.a,a-2.a", "TPU_WORKER_ID": "2"}
TWO_SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}
POD_JOB = "the Kubernetes Job"
# Launcher, processes, this one, whether it has a host for itself.
FOUND = [
    ({}, None),
    (OPEN_MPI, ("Open MPI", 2, 1, True)),
    (SLURM, ("SLURM", 8, 5, False)),
    ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x8)"}, ("SLURM", 8, 5, True)),
    ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1,7"}, ("SLURM", 8, 5, False)),
    # mpirun within a job of SLURM.
    ({**SLURM, **OPEN_MPI}, ("Open MPI", 2, 1, True)),
    (GKE, ("the TPU hosts of GKE", 3, 2, False)),
    ({**GKE, **TWO_SLICES}, ("the TPU hosts of GKE", 6, 5, False)),
    ({**GKE, **POD}, ("the TPU hosts of GKE", 3, 2, False)),
    ({**GKE, **SLURM}, ("SLURM", 8, 5, False)),
    (POD, (POD_JOB, None, 3, False)),
    ({"PMI_SIZE": "4", "PMI_RANK": "1"}, ("MPI", 4, 1, False)),
    ({"WORLD_SIZE": "4", "RANK": "1"}, ("torchrun", 4, 1, False)),
    # A script of sbatch, which srun did not start.
    ({"SLURM_JOB_ID": "17", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),
]
IDS = ["+".join(sorted({n.split("_")[0] for n in e})) or "none" for e, _ in FOUND]


@pytest.mark.parametrize(("environment", "expected"), FOUND, ids=IDS)
def test_a_launcher_is_found_by_its_variables(environment, expected):
    found = launchers.detect(environment)
    if expected is None:
        assert found is None
    else:
        got = found.launcher, found.processes, found.process, found.one_per_host
        assert got == expected


@pytest.mark.parametrize("environment", [e for e, _ in FOUND], ids=IDS)
def test_jax_finds_the_same(environment, monkeypatch):
    """On a machine with TPUs, where it can ask no metadata and no Kubernetes."""
    single_slice = dict.fromkeys(("MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"), "")
    for name in os.environ:
        if name.startswith(("OMPI", "SLURM", "TPU", "MEGASCALE", "KUBERNETES", "JOB")):
            monkeypatch.delenv(name)
    for name, value in {**single_slice, **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(cloud_tpu_init, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    types = clusters.ClusterEnv._cluster_types
    of_jax = [t for t in types if not t.opt_in_only_method and t.is_env_present()]
    found = launchers.detect(environment)
    if of_jax:
        expected = of_jax[0].get_process_count(), of_jax[0].get_process_id()
        assert (found.processes, found.process) == expected
    else:
        # Those that JAX does not join.
        assert found is None or found.launcher in ("MPI", "torchrun", POD_JOB)


def test_flags_that_differ_from_the_launcher_are_refused():
    found = launchers.detect(SLURM)
    found.check(8, 5)
    message = "--processes=8 --process=4: expected what SLURM says, got SLURM_NTASKS=8 "
    with pytest.raises(ValueError, match=message + "SLURM_PROCID=5"):
        found.check(8, 4)
    with pytest.raises(ValueError, match="expected what SLURM says"):
        launch.check_cluster("localhost:1234", 6, 5, found)
    pod = launchers.detect(POD)
    pod.check(9, 3)
    with pytest.raises(ValueError, match="got JOB_COMPLETION_INDEX=3"):
        pod.check(9, 2)


def test_variables_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="SLURM_NTASKS: expected a whole number"):
        launchers.detect({**SLURM, "SLURM_NTASKS": "many"})
    with pytest.raises(ValueError, match="TPU_WORKER_ID: expected one beside"):
        launchers.detect({"TPU_WORKER_HOSTNAMES": "a,b"})


def test_a_single_process_may_be_alone():
    launchers.detect({"WORLD_SIZE": "1", "RANK": "0"}).refuse_alone()
    launchers.detect({"TPU_WORKER_HOSTNAMES": "localhost"}).refuse_alone()
    launchers.detect({**POD, "JOB_COMPLETION_INDEX": "0"}).refuse_alone()
    with pytest.raises(ValueError, match="expected to join the processes of the Kuber"):
        launchers.detect(POD).refuse_alone()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "1 process, 8 x cpu"),
        ({"WORLD_SIZE": "1", "RANK": "0"}, "1 process, 8 x cpu"),
        ({"JOB_COMPLETION_INDEX": "0"}, "1 process alone (JOB_COMPLETION_INDEX=0), "),
    ],
)
def test_a_single_process_says_what_it_found(environment, expected, monkeypatch):
    monkeypatch.setattr(os, "environ", environment)
    assert launch.describe(None).startswith(expected)


REFUSED = {
    "Open MPI 5": (
        {name: OPEN_MPI[name] for name in OPEN_MPI if "orte" not in name},
        "expected to join the processes of Open MPI (OMPI_COMM_WORLD_SIZE=2 "
        "OMPI_COMM_WORLD_RANK=1), got no coordinator: JAX needs OMPI_MCA_orte_hnp_uri",
    ),
    "an address alone": (
        {"JAX_COORDINATOR_ADDRESS": "localhost:1234"},
        "JAX_COORDINATOR_ADDRESS=localhost:1234: expected a cluster that says how many",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_says_too_little_is_refused_in_one_line(name, tmp_path):
    """JAX would begin a run of its own in each process."""
    environment, message = REFUSED[name]
    child = commands.Child(tmp_path / "output", env=environment)
    assert child.status() == 2
    text = await_line(child.output)
    assert text.startswith(f"error: {message}") and text.count("\n") == 1


def await_line(output):
    """The content of a file that another program still writes."""
    deadline = time.monotonic() + 60
    while not output.read_text().endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.01)
    return output.read_text()


def start_under_mpi(folder, process, port, **variables):
    """A process of Open MPI that joins the others and writes what it found."""
    environment = {
        **OPEN_MPI,
        "OMPI_COMM_WORLD_RANK": str(process),
        "JAX_COORDINATOR_PORT": str(port),
        **variables,
    }
    path = str(folder / f"output{process}")
    child = commands.SERVER.Process(target=_join, args=(path, environment))
    child.start()
    return child


def _join(path, environment):
    import jax

    output = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    launch.CLUSTER_JOIN_SECONDS = int(os.environ.get("JOIN_SECONDS", 60))
    flags = ("coordinator", "processes", "process")
    launch.setup({"platform_tuning": False, **dict.fromkeys(flags)})
    print(
        launch.describe(None), jax.config.read("jax_cuda_visible_devices"), flush=True
    )
    jax.distributed.shutdown()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_two_processes_join_by_open_mpi(tmp_path):
    """One that shares its host takes one device of it, one that does not takes all."""
    port = free_port()
    shared = {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    children = [
        start_under_mpi(tmp_path, 0, port),
        start_under_mpi(tmp_path, 1, port, **shared),
    ]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    texts = [(tmp_path / f"output{i}").read_text() for i in (0, 1)]
    assert texts[0] == "2 processes by Open MPI, 16 x cpu all\n"
    assert texts[1] == "2 processes by Open MPI, 16 x cpu 1\n"


@pytest.mark.slow
def test_processes_that_do_not_come_are_told_in_one_line(tmp_path):
    """Where JAX aborts with a stack of C++."""
    child = start_under_mpi(tmp_path, 0, free_port(), JOIN_SECONDS="1")
    child.join(60)
    assert child.exitcode == -signal.SIGABRT
    assert await_line(tmp_path / "output0") == runtime_messages.NOT_JOINED
