"""A Ray cluster of a head and two worker nodes, processes on loopback that can be killed like machines.

Run as a script it holds the cluster: it prints its address, loses worker N and puts another in its place for each line
"N" that it reads, and ends with its input.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
from ray_head import ENVIRONMENT

WORKERS = 2


class Machines:
    """The cluster's address, and its processes."""

    def __init__(self, holder: "subprocess.Popen[str]") -> None:
        self.holder = holder
        self.address = self._answer()

    def lose(self, number: int) -> None:
        """SIGKILL a worker node's raylet, with which its replicas end; another node takes its place."""
        assert self.holder.stdin is not None
        self.holder.stdin.write(f"{number}\n")
        self.holder.stdin.flush()
        assert self._answer() == "lost"

    def _answer(self) -> str:
        assert self.holder.stdout is not None
        return self.holder.stdout.readline().strip()

    def processes(self) -> list[psutil.Process]:
        """All that the cluster has started and that lives."""
        with suppress(psutil.Error):
            return psutil.Process(self.holder.pid).children(recursive=True)
        return []

    def replicas(self) -> list[psutil.Process]:
        return [process for process in self.processes() if _title(process).startswith("ray::Replica")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def machines() -> Iterator[Machines]:
    """A cluster, of which nothing lives afterwards: whatever does fails the test."""
    holder = subprocess.Popen(
        [sys.executable, __file__], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    made = Machines(holder)
    assert ":" in made.address
    try:
        yield made
    finally:
        started = made.processes()
        assert holder.stdin is not None
        holder.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            holder.wait(timeout=60)
        _, alive = psutil.wait_procs(started, timeout=60)
        titles = [_title(process) for process in alive]
        for process in [*alive, holder]:
            with suppress(psutil.Error, ProcessLookupError):
                process.kill()
        assert not titles


def hold() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(WORKERS)]
    print(cluster.gcs_address, flush=True)
    for line in sys.stdin:
        node = nodes.pop(int(line))
        node.all_processes["raylet"][0].process.kill()
        cluster.remove_node(node, allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=1, wait=False))
        print("lost", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    hold()
