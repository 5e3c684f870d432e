# SPDX-License-Identifier: Apache-2.0
"""What a pod of a job is given, `entry.json`, and how it says that it has ended. Torch-free."""

import json
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt

from steerlm.errors import InputError, SteerLMError
from steerlm.files import write_json
from steerlm.settings import Settings

ENTRY = "entry.json"
TERMINATION_LOG = "STEERLM_TERMINATION_LOG"
"""Environment variable that replaces the file which Kubernetes reads after a container has ended."""
MESSAGE_BYTES = 3072
"""Longest termination message: Kubernetes cuts off at 4096 bytes, and a list of a job's pods holds all of them."""
Kind = Literal["permanent", "retryable"]


class EntrySpec(Settings):
    """`entry.json`, the same for every pod of an attempt.

    Attributes:
        module: The worker's module.
        spec: Its SPEC.json.
        devices: Processes per node.
        threads: CPU threads per process; None divides the node's cores among its processes.
        grace_seconds: Time to save after a stop was requested.
        environment: Variables that the processes start with, unless the pod has set them.
    """

    module: str
    spec: Path
    nodes: PositiveInt = 1
    devices: PositiveInt = 1
    threads: PositiveInt | None = None
    grace_seconds: PositiveFloat = 300.0
    environment: dict[str, str] = Field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `entry.json` into an attempt's folder."""
        write_json(folder / ENTRY, self.model_dump(mode="json"))


class TerminationMessage(BaseModel):
    """Why a pod has ended; Kubernetes shows it as the container's termination message.

    Attributes:
        exit_code: 0, 143 after a stop that was saved, 2 for bad input, 128 + the number of a signal that killed a
            worker, else 1.
        kind: "permanent": starting the job again cannot help.
        lost_peer: The cause is in another pod.
        rank: The process that failed; None if it was the pod itself.
        step: The last one that was reported.
        pod: The pod whose end this is, if another one says it.
    """

    exit_code: int
    kind: Kind
    message: str = ""
    lost_peer: bool = False
    rank: int | None = None
    step: int | None = None
    pod: str | None = None

    @classmethod
    def of_error(cls, error: BaseException) -> Self:
        """Return the message for an error of the pod itself: one in a configuration is permanent."""
        if isinstance(error, SteerLMError):
            kind: Kind = "permanent" if isinstance(error, InputError) else "retryable"
            return cls(exit_code=error.exit_code, kind=kind, message=str(error))
        return cls(exit_code=1, kind="retryable", message=f"{type(error).__name__}: {error}")

    def text(self) -> str:
        """Return it as JSON of at most `MESSAGE_BYTES`; a longer message is cut."""
        fields = self.model_dump()
        text = json.dumps(fields)
        while len(text) > MESSAGE_BYTES:
            cut = len(fields["message"]) - max(1, (len(text) - MESSAGE_BYTES) // 6)  # an escape has up to 6 bytes
            fields["message"] = f"{fields['message'][: cut - 3]}..."
            text = json.dumps(fields)
        return text

    def publish(self) -> None:
        """Write it where Kubernetes reads it. Does nothing where there is no such file."""
        path = Path(os.environ.get(TERMINATION_LOG, "/dev/termination-log"))
        if TERMINATION_LOG in os.environ or path.exists():
            path.write_text(self.text(), encoding="utf-8")


class NodeRecord(BaseModel):
    """`node-N.json`: a pod of an attempt; `ended` is None while it runs."""

    node: int
    host: str
    ended: TerminationMessage | None = None

    @staticmethod
    def path(folder: Path, node: int) -> Path:
        """Return the file of a node in an attempt's folder."""
        return folder / f"node-{node}.json"

    @classmethod
    def read_all(cls, folder: Path) -> list[Self]:
        """Return the records of an attempt's nodes, in the order of the nodes."""
        records = [cls.model_validate_json(path.read_bytes()) for path in folder.glob("node-*.json")]
        return sorted(records, key=lambda record: record.node)

    def write(self, folder: Path) -> None:
        """Write it into an attempt's folder."""
        write_json(self.path(folder, self.node), self.model_dump())
