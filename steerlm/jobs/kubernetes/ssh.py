# SPDX-License-Identifier: Apache-2.0
"""How mpirun reaches the nodes of an MPIJob: ssh as the job's own user, on a port that needs no root."""

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from steerlm.errors import ConfigError

SSH_PORT = 2222
SSH_KEYS = "/etc/steerlm/ssh"
"""Where the operator mounts the job's key pair: id_rsa, id_rsa.pub and authorized_keys."""
KEYS = "STEERLM_SSH_KEYS"
"""Environment variable that names another folder of the key pair."""
EXTRA_USERS = Path("/tmp/extrausers/passwd")
"""Where the images look for users beside those of /etc/passwd (libnss-extrausers); a volume of the pod's own."""
LEAST_UID = 500
"""The least user id that is taken from there."""
OF_A_SESSION = ("HOME", "LOGNAME", "SHELL", "USER", "MAIL", "PWD", "OLDPWD", "SHLVL", "_")
"""Variables that are a session's own."""


def keys_folder() -> Path:
    """Return the folder of the job's key pair."""
    return Path(os.environ.get(KEYS) or SSH_KEYS)


def named_user() -> str:
    """Return this user's name; one without is given a name where the images look for further users.

    Raises:
        ConfigError: It has no name, and this image takes none: ssh refuses such a user.
    """
    uid = os.getuid()
    for first in (True, False):
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            if first:
                _add_user(uid)
    raise ConfigError(
        f"user {uid} has no passwd entry in this image, and ssh needs one; use an image built on this version's bases "
        f"(they read {EXTRA_USERS}) and a cluster.uid of {LEAST_UID} or more, or another back end than mpijob"
    )


def _add_user(uid: int) -> None:
    """Write the user's line of passwd. Every pod of a job makes the same, since ssh logs in by the name."""
    line = f"steerlm-{uid}:x:{uid}:{os.getgid()}::{os.environ.get('HOME', '/tmp')}:/bin/sh\n"
    with contextlib.suppress(OSError):  # the caller says what is missing
        EXTRA_USERS.parent.mkdir(exist_ok=True)
        EXTRA_USERS.write_text(line, encoding="utf-8")


def server_command(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Make host keys and the configuration of an ssh server in `folder`, and return the command that runs it.

    Its sessions get `environment`; a session has none of the server's variables otherwise.

    Raises:
        ConfigError: There is no ssh server, or no key pair.
    """
    server, key, authorized = _program("sshd"), folder / "host_key", keys_folder() / "authorized_keys"
    if not authorized.exists():
        raise ConfigError(f"{authorized}: no such file; the MPI operator mounts it (sshAuthMountPath)")
    folder.mkdir(parents=True, exist_ok=True)
    key.unlink(missing_ok=True)
    subprocess.run([_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    if os.geteuid() == 0:  # of which the server has a compiled-in path
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    lines = [
        f"Port {SSH_PORT}",
        f"HostKey {key}",
        f"AuthorizedKeysFile {authorized}",
        "StrictModes no",  # the keys are a mounted Secret, whose owner and mode are Kubernetes'
        "AuthenticationMethods publickey",
        "PermitRootLogin prohibit-password",
        "UsePAM no",
        "PidFile none",
        "PrintMotd no",
        "LogLevel FATAL",  # a readiness probe, which only connects, would be an error every time
        session_environment(environment),
    ]
    (folder / "sshd_config").write_text("".join(f"{line}\n" for line in lines if line), encoding="utf-8")
    return [server, "-D", "-e", "-f", str(folder / "sshd_config")]


def session_environment(environment: Mapping[str, str]) -> str:
    r"""Return the line of sshd_config that gives every session these variables; only the first such line counts.

    A value of several lines cannot be written there and is left out.

    >>> session_environment({"A": "one two", "B": 'say "yes"', "HOME": "/"})
    'SetEnv "A=one two" "B=say \\"yes\\""'
    """
    pairs = [f"{name}={value}" for name, value in environment.items() if name not in OF_A_SESSION]
    words = [pair.replace("\\", "\\\\").replace('"', '\\"') for pair in pairs if "\n" not in pair]
    return " ".join(["SetEnv", *(f'"{word}"' for word in words)]) if words else ""


def client_options(folder: Path) -> str:
    """Return the options of mpirun's ssh, with a copy of the private key in `folder` that only this user can read.

    The hosts' keys are not known before: they are made when a pod starts, and the network is the job's own.
    """
    source, key = keys_folder() / "id_rsa", folder / "id_rsa"
    if not source.exists():
        raise ConfigError(f"{source}: no such file; the MPI operator mounts it (sshAuthMountPath)")
    folder.mkdir(parents=True, exist_ok=True)
    key.unlink(missing_ok=True)
    shutil.copyfile(source, key)
    key.chmod(0o600)
    options = {
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
        "ConnectionAttempts": "10",
        "ServerAliveInterval": "15",  # a dead node ends its session, and so the job
    }
    return " ".join([f"-p {SSH_PORT} -i {key}", *(f"-o {name}={value}" for name, value in options.items())])


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/bin")
    if found is None:
        raise ConfigError(f"{name} is not in this image; images of a job that MPI starts need openssh")
    return found
