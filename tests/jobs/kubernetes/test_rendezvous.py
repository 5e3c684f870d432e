# SPDX-License-Identifier: Apache-2.0
"""Rank and address of a node from each operator's environment."""

from pathlib import Path

import pytest

from steerlm.errors import ConfigError
from steerlm.jobs.kubernetes.rendezvous import HOST_FILE, Rendezvous, rendezvous

TORCHRUN = {"PET_NODE_RANK": "3", "PET_MASTER_ADDR": "reward-master-0", "PET_MASTER_PORT": "23456"}


def test_variables_of_torchrun() -> None:
    assert rendezvous(TORCHRUN, 4) == Rendezvous(3, "reward-master-0", 23456)


def test_an_mpi_rank_and_its_host_file(tmp_path: Path) -> None:
    hosts = tmp_path / "hostfile"
    hosts.write_text("# made by the operator\nreward-worker-0.reward.steerlm.svc slots=8\nreward-worker-1 slots=8\n")
    environment = {"OMPI_COMM_WORLD_RANK": "1", HOST_FILE: str(hosts)}
    assert rendezvous(environment, 2) == Rendezvous(1, "reward-worker-0.reward.steerlm.svc", 29500)
    # Intel's and MPICH's form.
    hosts.write_text("reward-worker-0:8\n")
    assert rendezvous({**environment, "PET_MASTER_PORT": "1"}, 2) == Rendezvous(1, "reward-worker-0", 1)


def test_one_node_needs_no_variables() -> None:
    found = rendezvous({}, 1)
    assert (found.rank, found.address) == (0, "127.0.0.1") and found.port > 1023


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PET_NODE_RANK": ""}, "neither PET_NODE_RANK nor OMPI_COMM_WORLD_RANK is set"),
        ({"PET_NODE_RANK": "4"}, "this is node 4, but entry.json says that the job has 4 nodes"),
        ({"PET_MASTER_ADDR": ""}, "neither PET_MASTER_ADDR nor OMPI_MCA_orte_default_hostfile"),
        ({"PET_MASTER_ADDR": "", HOST_FILE: "/none"}, "/none: the host file cannot be read"),
        ({"PET_MASTER_PORT": "tcp"}, "PET_MASTER_PORT is 'tcp', a whole number was expected"),
    ],
)
def test_an_environment_that_does_not_say_it(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rendezvous({**TORCHRUN, **changes}, 4)
