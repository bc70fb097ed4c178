"""A run on the nodes of a Ray cluster (https://docs.ray.io), one process for each node.

    ray job submit --working-dir=. -- python clusters/ray_nodes.py --nodes=2 --gpus=8 \\
        experiments.language_model --workdir=/mnt/share/runs/a

The run folder is on a file system that all nodes see, or in a bucket. Where a process
ends, all start again with the same command, which goes on from the last checkpoint, up
to --restarts times; not where the command line is wrong (exit status 2).
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


@ray.remote(num_cpus=1)
class Node:
    """A process on a node of its own."""

    def address(self) -> str:
        """host:port, free now, for process 0."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def run(self, argv: list[str]) -> int:
        """The exit status of python -m `argv`."""
        return subprocess.run([sys.executable, "-m", *argv], check=False).returncode


def run_all(argv: list[str], nodes: int, gpus: int) -> int:
    """The exit status of the first process that ended with another than 0."""
    bundles = [{"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1}] * nodes
    group = placement_group(bundles, strategy="STRICT_SPREAD")
    try:
        actors = [
            Node.options(
                num_gpus=gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, i),
            ).remote()
            for i in range(nodes)
        ]
        flags = [f"--coordinator={ray.get(actors[0].address.remote())}"]
        flags += [f"--processes={nodes}"]
        waiting = [
            actor.run.remote([*argv, *flags, f"--process={i}"])
            for i, actor in enumerate(actors)
        ]
        while waiting:
            ended, waiting = ray.wait(waiting)
            status = ray.get(ended[0])
            if status:
                # The others end by themselves: what they wait for does not come.
                return status
        return 0
    except ray.exceptions.RayActorError as error:
        print(f"a node ended: {error}", flush=True)
        return 1
    finally:
        remove_placement_group(group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=0, help="of a node")
    parser.add_argument("--restarts", type=int, default=10)
    options, argv = parser.parse_known_args()
    ray.init(address="auto")
    for restart in range(options.restarts + 1):
        print(f"start {restart} on {options.nodes} nodes: {' '.join(argv)}", flush=True)
        status = run_all(argv, options.nodes, options.gpus)
        if status in (0, 2):
            break
        print(f"exit status {status}", flush=True)
        time.sleep(5)
    sys.exit(status)


if __name__ == "__main__":
    main()
