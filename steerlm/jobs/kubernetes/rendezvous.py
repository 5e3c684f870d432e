# SPDX-License-Identifier: Apache-2.0
"""Where the processes of a job meet, and which node this one is: read from what Kubeflow's operators set.

PyTorchJob and TrainJob set torchrun's variables (PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT). In an MPIJob the
rank is mpirun's, and the first host of the host file is where rank 0 runs.
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from steerlm.errors import ConfigError

PORT = 29500
"""torchrun's own port, where the operator names none."""
HOST_FILE = "OMPI_MCA_orte_default_hostfile"
"""Environment variable that names the host file of an MPIJob."""


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """`rank`: of this node. `address`, `port`: where the node of rank 0 listens."""

    rank: int
    address: str
    port: int


def rendezvous(environment: Mapping[str, str], nodes: int) -> Rendezvous:
    """Return the place of this node among `nodes`.

    Raises:
        ConfigError: The environment does not say it, or does not fit the number of nodes.
    """
    if nodes == 1:  # needs no name that other pods know, which may not be resolved yet
        return Rendezvous(0, "127.0.0.1", _free_port())
    rank = _number(environment, "PET_NODE_RANK", "OMPI_COMM_WORLD_RANK")
    if rank is None:
        raise ConfigError(
            "neither PET_NODE_RANK nor OMPI_COMM_WORLD_RANK is set: this is not a pod of a PyTorchJob, TrainJob or "
            f"MPIJob, but entry.json says that the job has {nodes} nodes"
        )
    if not 0 <= rank < nodes:
        raise ConfigError(f"this is node {rank}, but entry.json says that the job has {nodes} nodes")
    address = environment.get("PET_MASTER_ADDR") or next(iter(hosts(environment.get(HOST_FILE))), None)
    if not address:
        raise ConfigError(f"neither PET_MASTER_ADDR nor {HOST_FILE} says where the node of rank 0 is")
    port = _number(environment, "PET_MASTER_PORT")
    return Rendezvous(rank, address, PORT if port is None else port)


def hosts(path: str | Path | None) -> list[str]:
    """Return the hosts of an MPI host file, where each line is `HOST slots=N`; none if no file is given.

    Raises:
        ConfigError: The file cannot be read.
    """
    if path is None:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: the host file cannot be read ({error.strerror})") from None
    return [line.split()[0].partition(":")[0] for line in lines if line.strip() and not line.startswith("#")]


def _number(environment: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        if value := environment.get(name):
            if not value.isdecimal():
                raise ConfigError(f"{name} is {value!r}, a whole number was expected")
            return int(value)
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
