"""A Ray cluster of one machine with its HTTP Jobs API, as `ray start --head` makes it, on loopback and free ports."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

TOKEN = "f00d" * 8
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # where the jobs' python is
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray binds loopback alone then
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else replicas give way to all else on the machine, such as other tests
    "OMP_NUM_THREADS": "1",
}


class Head(str):
    """The dashboard's address; `ray` is the cluster's own, for drivers on this machine."""

    ray: str


@contextmanager
def ray_head() -> Iterator[Head]:
    """The head's addresses. It wants TOKEN, which ENVIRONMENT carries."""
    folder = tempfile.mkdtemp(prefix="p2pz")  # not pytest's: the paths of sockets must be short
    gcs, dashboard, agent, client = free_ports(4)
    command = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=8"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--ray-client-server-port={client}", f"--temp-dir={folder}"]
    with Path(folder, "head.log").open("w") as log:
        head = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)
    address = Head(f"http://127.0.0.1:{dashboard}")
    address.ray = f"127.0.0.1:{gcs}"
    try:
        while not answers(address):
            assert head.poll() is None, Path(folder, "head.log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        head.terminate()  # it ends all that it has started
        with suppress(subprocess.TimeoutExpired):
            head.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
