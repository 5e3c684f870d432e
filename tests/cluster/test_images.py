# SPDX-License-Identifier: Apache-2.0
"""Images, built for real, in containers like the pods of a cluster: any user, a read-only file system, no network."""

import json
import subprocess
from pathlib import Path

import pytest

import steerlm
from steerlm.jobs.kubernetes.config import ImageSettings
from steerlm.jobs.kubernetes.images import reference
from tests.cli import world
from tests.cluster.conftest import Cluster
from tests.cluster.platform import TAG
from tests.cluster.product import builder_environment, make_images

USERS = ("1000:1000", "4711:0", "4711:4711")
"""The images' own user; one of a cluster that gives each namespace its users, in root's group; any other."""


SETTINGS = ImageSettings(tag=TAG)


@pytest.fixture(scope="module", autouse=True)
def built(cluster: Cluster) -> None:
    """Three images and their bases in podman's storage; nothing is pushed."""
    make_images(cluster, "launcher", "gateway", "train-reward", registry="")


def podman(*words: str) -> str:
    done = subprocess.run(["podman", *words], capture_output=True, text=True, env=builder_environment(), check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run(name: str, *words: str, user: str = USERS[0], flags: tuple[str, ...] = ()) -> str:
    """The output of a container that gets no more than a pod of the Pod Security Standard `restricted`."""
    restricted = ["--cap-drop=all", "--security-opt=no-new-privileges", "--network=none", f"--user={user}"]
    files = ["--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp", "--env=HOME=/tmp"]
    image = reference(name, SETTINGS)
    return podman("run", "--rm", "--cgroups=enabled", "--passwd=false", *restricted, *files, *flags, image, *words)


def python(name: str, code: str, user: str = USERS[0]) -> str:
    return run(name, "-c", code, user=user, flags=("--entrypoint=python",))


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("launcher", "Commands:"),
        ("gateway", "reward model or a steerable model"),
        ("train-reward", "steerlm train reward"),
    ],
)
def test_help(name: str, words: str, user: str) -> None:
    assert words in run(name, "--help", user=user)


def test_two_images_with_a_volume_between_them_make_a_reward_model(tmp_path: Path) -> None:
    """Samples in the launcher's image; one step of training in the other, as another user of the same group."""
    world.build(tmp_path)
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    volume = (f"--volume={tmp_path}:/work", "--workdir=/work")
    samples = "data regression --input-file own/train.jsonl --output-file samples.jsonl --attributes own.yaml"
    run("launcher", *samples.split(), flags=volume)
    train = "own.yaml --model models/base --data samples.jsonl --output made"
    output = run("train-reward", *train.split(), user="4711:4711", flags=volume)
    assert "model folder: made" in output
    assert list((tmp_path / "made").glob("*.safetensors"))
    assert (tmp_path / "made" / "config.json").stat().st_uid == 4711


@pytest.mark.parametrize("name", ["launcher", "gateway"])
def test_what_computes_nothing_has_no_torch(name: str) -> None:
    absent = "import importlib.util as i; print([n for n in ('torch', 'triton', 'nvidia') if i.find_spec(n)])"
    assert python(name, absent) == "[]\n"


def test_a_gateway_s_server_starts() -> None:
    """As far as it comes without a model; test_serving.py has one in a pod, before a server of ours in vLLM's place."""
    assert python("gateway", "import steerlm.serving.run, yaml; print('ok')") == "ok\n"


def test_a_launcher_does_its_work() -> None:
    present = "import kfp, kubernetes, mlflow, minio, matplotlib, steerlm.pipeline.run; print('ok')"
    assert python("launcher", present) == "ok\n"
    assert "memory" in run("launcher", "plan", "demo")


LOGIN = """
import os, subprocess
from pathlib import Path
from steerlm.jobs.kubernetes import ssh

name, keys = ssh.named_user(), Path("/tmp/keys")
os.environ[ssh.KEYS] = str(keys)
keys.mkdir()
subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / "id_rsa")], check=True)
(keys / "id_rsa.pub").rename(keys / "authorized_keys")
server = subprocess.Popen(ssh.server_command(Path("/tmp/server"), {"GREETING": "hello"}))
options = ssh.client_options(Path("/tmp/client")).split()
subprocess.run(["ssh", *options, "127.0.0.1", "id -un; id -u; echo $GREETING"], check=True)
server.terminate()
print(name)
"""
"""What the pods of an MPIJob do, of which one logs in on the others."""


@pytest.mark.parametrize(("user", "name"), [("1000:1000", "steerlm"), ("4711:4711", "steerlm-4711")])
def test_any_user_can_log_in_on_a_node_of_an_mpijob(user: str, name: str) -> None:
    """ssh and its server refuse a user who has no name."""
    assert python("train-reward", LOGIN, user=user).split() == [name, user.partition(":")[0], "hello", name]


def test_an_image_keeps_no_keys_and_its_code_is_roots() -> None:
    look = "find /run/secrets /etc/ssh/*key* -type f; find /opt ! -user 0 -o -perm -002 ! -type l | head; id -un"
    assert run("train-reward", "-c", f"({look}) 2>/dev/null", flags=("--entrypoint=sh",)) == "steerlm\n"


@pytest.mark.parametrize("name", ["launcher", "gateway", "train-reward"])
def test_the_image_says_what_it_is(name: str) -> None:
    image = reference(name, SETTINGS)
    config = json.loads(podman("image", "inspect", image))[0]["Config"]
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"][0] == "steerlm"
    assert not [value for value in config["Env"] if any(word in value for word in ("INDEX", "CERT", "TOKEN"))]
    labels = {key.rpartition(".")[2]: value for key, value in config["Labels"].items() if "opencontainers" in key}
    assert (labels["title"], labels["version"]) == (name, steerlm.__version__)
    assert len(labels["revision"].removesuffix("-dirty")) == 40
    assert labels["source"].startswith("https://")


def test_the_code_is_the_one_layer_on_the_base() -> None:
    """After a change of the code a node pulls 2 MB."""

    def layers(image: str) -> list[str]:
        found: list[str] = json.loads(podman("image", "inspect", image))[0]["RootFS"]["Layers"]
        return found

    image, base = reference("train-reward", SETTINGS), reference("base-cpu", SETTINGS)
    assert layers(image)[:-1] == layers(base)
    assert json.loads(podman("history", "--format=json", image))[0]["size"] < 10e6


def test_the_gpu_base_keeps_the_torch_it_is_built_on(cluster: Cluster) -> None:
    """NVIDIA's image is not to be had here; the base without CUDA, which has a torch and a user 1000 too, is."""
    make_images(cluster, "base-gpu", base_image=reference("base-cpu", SETTINGS), registry="", device="gpu")
    image = reference("base-gpu", SETTINGS)
    shown = "import torch, megatron.core, fastapi, kfp; print(torch.__version__)"
    versions = {
        podman("run", "--rm", "--cgroups=enabled", "--network=none", one, "python", "-c", shown)
        for one in (image, reference("base-cpu", SETTINGS))
    }
    assert len(versions) == 1
