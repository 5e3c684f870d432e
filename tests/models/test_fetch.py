# SPDX-License-Identifier: Apache-2.0
"""Models are fetched whole or not at all: over real HTTP by the hub's client, from a store, from this machine."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from steerlm.errors import InputError, ModelError, StorageError
from steerlm.models.fetch import fetch_model
from steerlm.models.folder import ModelInfo, load_tokenizer, read_info
from tests.models.conftest import OWN, Make
from tests.models.hub_server import COMMIT, Hub, serving

UNWANTED = {
    "pytorch_model.bin": b"pickle",
    "model.pt": b"pickle",
    "modeling_tiny.py": b"raise SystemExit",
    "original/consolidated.safetensors": b"elsewhere",
    "consolidated.safetensors": b"the same weights again",
    ".gitattributes": b"",
    "training_args.bin": b"pickle",
}
CARD = b"---\nlicense: tiny-license\n---\n# Tiny\n"


@pytest.fixture
def files(make_folder: Make, tmp_path: Path) -> dict[str, bytes]:
    """A model as it lies on the hub, in two shards, with what is not to be fetched beside it."""
    folder = make_folder(ModelInfo("base"), "source")
    weights = load_file(folder / "model.safetensors")
    index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
    for i, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1):
        shard = f"model-0000{i}-of-00002.safetensors"
        save_file({name: weights[name] for name in names}, folder / shard, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(names, shard)
    (folder / "model.safetensors").unlink()
    (folder / "steerlm.json").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return {path.name: path.read_bytes() for path in folder.iterdir()} | UNWANTED | {"README.md": CARD}


@pytest.fixture
def hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nonexistent/token")
    with serving(Hub(files=files)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
TAKEN = {
    "LICENSE",
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    *SHARDS,
}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check_manifest(folder: Path, uri: str, revision: str | None) -> None:
    manifest = json.loads((folder / "fetched.json").read_text())
    assert (manifest["uri"], manifest["revision"]) == (uri, revision)
    assert manifest["files"].keys() == names(folder) - {"fetched.json"}
    for name, told in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert told == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_fetches_what_a_model_needs_and_no_pickle_or_code(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "tiny"
    fetch_model("hf://org/tiny", folder)
    assert names(folder) == TAKEN | {"fetched.json"}
    assert {name.partition(" ")[0] for name in hub.fetched()} == TAKEN
    check_manifest(folder, "hf://org/tiny", COMMIT)
    assert read_info(folder) == ModelInfo("base", base=f"org/tiny@{COMMIT}", license="tiny-license")
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    asked = len(hub.log)
    hub.down = True
    fetch_model("hf://org/tiny", folder)  # nothing to do, the hub is not asked
    assert len(hub.log) == asked


def test_a_revision_is_resolved_to_its_commit(hub: Hub, tmp_path: Path) -> None:
    hub.branches["v2"] = COMMIT
    fetch_model("hf://org/tiny@v2", tmp_path / "model")
    check_manifest(tmp_path / "model", "hf://org/tiny@v2", COMMIT)
    with pytest.raises(InputError, match="no revision 'v3' of org/tiny"):
        fetch_model("hf://org/tiny@v3", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_broken_connection_is_resumed_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    size = len(hub.files[SHARDS[0]])
    hub.cut = {SHARDS[0]: size - 1000}
    fetch_model("hf://org/tiny", tmp_path / "m")
    spans = [entry for entry in hub.fetched() if entry.startswith(SHARDS[0])]
    assert spans == [SHARDS[0], f"{SHARDS[0]} bytes={size - 1000}-"]
    check_manifest(tmp_path / "m", "hf://org/tiny", COMMIT)


def test_a_server_without_ranges_starts_the_file_again(hub: Hub, tmp_path: Path) -> None:
    hub.cut, hub.ranges = {SHARDS[0]: 1000}, False
    fetch_model("hf://org/tiny", tmp_path / "m")
    check_manifest(tmp_path / "m", "hf://org/tiny", COMMIT)


def test_a_killed_fetch_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    """SIGKILL while the second shard is half there; the run after it asks for the rest of it only."""
    half = len(hub.files[SHARDS[1]]) // 2
    hub.stall = {SHARDS[1]: half}
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "steerlm.cli", "model", "fetch", "hf://org/tiny", str(tmp_path / "m")]
    process = subprocess.Popen(command, env=environment)
    try:
        partial, until = tmp_path / "m" / f".{SHARDS[1]}.partial", time.monotonic() + 120
        while not (partial.exists() and partial.stat().st_size == half and (tmp_path / "m" / SHARDS[0]).exists()):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "m" / "fetched.json").exists()
    hub.log.clear()
    fetch_model("hf://org/tiny", tmp_path / "m")
    assert hub.fetched() == [f"{SHARDS[1]} bytes={half}-"]
    check_manifest(tmp_path / "m", "hf://org/tiny", COMMIT)


def test_a_hub_that_goes_down_in_between_is_given_up_and_gone_on_with(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerlm.retry.time", SimpleNamespace(sleep=lambda seconds: None))
    hub.cut, hub.gone = {SHARDS[1]: 3000}, {SHARDS[1]}
    with pytest.raises(StorageError, match=r"the hub cannot be read .*503"):
        fetch_model("hf://org/tiny", tmp_path / "m")
    assert (tmp_path / "m" / f".{SHARDS[1]}.partial").stat().st_size == 3000
    hub.gone = set()
    fetch_model("hf://org/tiny", tmp_path / "m")
    assert hub.fetched()[-1] == f"{SHARDS[1]} bytes=3000-"
    check_manifest(tmp_path / "m", "hf://org/tiny", COMMIT)


def test_a_file_that_ends_too_soon_is_given_up(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerlm.retry.time", SimpleNamespace(sleep=lambda seconds: None))
    hub.longer, hub.ranges = {SHARDS[0]: 10}, False
    with pytest.raises(StorageError, match=f"{SHARDS[0]} ends before its"):
        fetch_model("hf://org/tiny", tmp_path / "m")


def test_an_interrupted_fetch_keeps_to_its_commit(hub: Hub, tmp_path: Path) -> None:
    """The branch moves on between the two runs: shards of two commits are not mixed."""
    hub.lies = {SHARDS[1]: "0" * 64}
    with pytest.raises(StorageError):
        fetch_model("hf://org/tiny", tmp_path / "m")
    hub.lies, newer = {}, "f" * 40
    hub.branches = {"main": newer, "old": COMMIT}
    fetch_model("hf://org/tiny", tmp_path / "m")
    check_manifest(tmp_path / "m", "hf://org/tiny", COMMIT)


@pytest.mark.parametrize("name", [SHARDS[1], "config.json"])
def test_a_file_that_is_not_what_the_hub_says_is_an_error(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.lies = {name: "0" * 64 if name in SHARDS else "1" * 40}
    with pytest.raises(StorageError, match=f"{name}: has another checksum than its source"):
        fetch_model("hf://org/tiny", tmp_path / "m")
    assert not (tmp_path / "m" / name).exists() and not (tmp_path / "m" / "fetched.json").exists()
    hub.lies = {}
    fetch_model("hf://org/tiny", tmp_path / "m")
    check_manifest(tmp_path / "m", "hf://org/tiny", COMMIT)
    assert sum(entry.startswith(SHARDS[0]) for entry in hub.fetched()) == 1  # what was right is kept


@pytest.mark.parametrize("token", [None, "of somebody else"])
def test_a_gated_model_names_its_license_and_where_to_accept_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    hub.token = "granted"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError) as caught:
        fetch_model("hf://org/tiny", tmp_path / "m")
    message = str(caught.value)
    assert f"gated; accept its license (tiny-license) at {hub.url}/org/tiny" in message
    assert f"HF_TOKEN is {'set' if token else 'not set'}" in message
    assert "\n" not in message and "somebody" not in message
    monkeypatch.setenv("HF_TOKEN", "granted")
    fetch_model("hf://org/tiny", tmp_path / "m")
    check_manifest(tmp_path / "m", "hf://org/tiny", COMMIT)


def test_a_model_that_is_not_there_or_private(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"hf://org/none: no such model on the hub, or a private one \(HF_TOKEN is not"
    ):
        fetch_model("hf://org/none", tmp_path / "m")
    hub.token, hub.private = "granted", True
    with pytest.raises(InputError, match="or a private one"):
        fetch_model("hf://org/tiny", tmp_path / "m")


def test_a_hub_that_cannot_be_reached_is_one_line(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    hub.down = True
    with pytest.raises(
        StorageError, match=r"the hub cannot be read .*; run the same command again to resume"
    ) as caught:
        fetch_model("hf://org/tiny", tmp_path / "m")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(StorageError, match=r"the hub cannot be read .*refused"):
        fetch_model("hf://org/tiny", tmp_path / "m")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="offline mode") as caught:
        fetch_model("hf://org/tiny", tmp_path / "m")
    assert "\n" not in str(caught.value) and not (tmp_path / "m").exists()


@pytest.mark.parametrize("uri", ["hf://tiny", "hf://org/tiny/main", "hf://org/tiny@", "hf://", "hf://org/a b"])
def test_a_wrong_address_is_named(tmp_path: Path, uri: str) -> None:
    with pytest.raises(InputError, match="expected hf://organization/name"):
        fetch_model(uri, tmp_path / "m")


def test_a_name_that_the_hub_cannot_have_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the hub has no names like 'org/ti\"ny'; expected hf://org/name"):
        fetch_model('hf://org/ti"ny', tmp_path / "m")


def test_a_model_of_pickles_only_is_refused(hub: Hub, tmp_path: Path) -> None:
    for name in [name for name in hub.files if name.endswith(".safetensors")]:
        del hub.files[name]
    hub.files["original/model.safetensors"] = b"elsewhere"
    with pytest.raises(ModelError, match="no safetensors; pickled weights are not read"):
        fetch_model("hf://org/tiny", tmp_path / "m")
    assert not hub.fetched() and not (tmp_path / "m").exists()


def test_another_architecture_is_refused_before_its_weights(hub: Hub, tmp_path: Path) -> None:
    hub.files["config.json"] = b'{"model_type": "mamba"}'
    with pytest.raises(ModelError, match="model_type 'mamba'"):
        fetch_model("hf://org/tiny", tmp_path / "m")
    assert not any(".safetensors" in entry and "index" not in entry for entry in hub.fetched())


def test_a_shard_that_the_index_names_and_nobody_has(hub: Hub, tmp_path: Path) -> None:
    del hub.files[SHARDS[1]]
    with pytest.raises(ModelError, match=f"{SHARDS[1]} is missing"):
        fetch_model("hf://org/tiny", tmp_path / "m")
    hub.files["model.safetensors.index.json"] = b"[]"
    with pytest.raises(ModelError, match="not an index of weights"):
        fetch_model("hf://org/tiny", tmp_path / "n")


def test_a_full_disk_is_seen_before_the_weights(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"the weights need .* GB more, 0\.0 GB are free"):
        fetch_model("hf://org/tiny", tmp_path / "m")
    assert not any(entry.startswith("model-") for entry in hub.fetched())


def test_a_folder_that_holds_something_else_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(InputError, match="is not empty"):
        fetch_model("hf://org/tiny", tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        fetch_model("hf://org/tiny", tmp_path / "mine" / "diary.txt")
    fetch_model("hf://org/tiny", tmp_path / "m")
    with pytest.raises(InputError, match="holds hf://org/tiny; give another folder"):
        fetch_model("hf://org/tiny@v2", tmp_path / "m")
    (tmp_path / "m" / SHARDS[0]).write_bytes(b"shorter")
    with pytest.raises(StorageError, match=f"{SHARDS[0]}: missing or changed"):
        fetch_model("hf://org/tiny", tmp_path / "m")


@pytest.fixture
def disk(files: dict[str, bytes], tmp_path: Path) -> Path:
    """The same model in the hub's cache of this machine: symbolic links to blobs, relative ones."""
    folder, blobs = tmp_path / "cache" / "snapshots" / "tiny", tmp_path / "cache" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for name, content in files.items():
        if "/" not in name:
            blob = hashlib.sha256(content).hexdigest()
            (blobs / blob).write_bytes(content)
            (folder / name).symlink_to(Path("../..") / "blobs" / blob)
    return folder


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_model_is_linked_and_its_small_files_copied(disk: Path, tmp_path: Path, scheme: str) -> None:
    before = {path.name: path.read_bytes() for path in disk.iterdir()}
    folder = tmp_path / "m"
    fetch_model(f"{scheme}{disk}", folder)
    assert names(folder) == TAKEN | {"fetched.json"}
    check_manifest(folder, "tiny", None)  # a path means nothing on another machine
    for path in folder.iterdir():
        assert not path.is_symlink()
        assert (path.stat().st_nlink > 1) == (path.name in SHARDS)
    assert {path.name: path.read_bytes() for path in disk.iterdir()} == before
    fetch_model(str(disk), folder)


def test_a_local_model_on_another_disk_is_copied(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    fetch_model(str(disk), tmp_path / "m")
    assert names(tmp_path / "m") == TAKEN | {"fetched.json"}
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "m").iterdir())


def test_a_local_model_that_has_changed_is_fetched_anew(disk: Path, tmp_path: Path) -> None:
    fetch_model(str(disk), tmp_path / "m")
    weights = load_file(disk / SHARDS[0])
    (disk / SHARDS[0]).unlink()
    save_file({name: weight.to(torch.bfloat16) for name, weight in weights.items()}, disk / SHARDS[0])
    fetch_model(str(disk), tmp_path / "m")
    assert (tmp_path / "m" / SHARDS[0]).read_bytes() == (disk / SHARDS[0]).read_bytes()
    check_manifest(tmp_path / "m", "tiny", None)


def test_local_models_that_will_not_do(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model folder"):
        fetch_model(str(tmp_path / "absent"), tmp_path / "m")
    with pytest.raises(InputError, match="is the model itself"):
        fetch_model(str(disk), disk)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no model at this address"):
        fetch_model(str(tmp_path / "empty"), tmp_path / "m")
    for path in disk.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match="pickled weights are not read"):
        fetch_model(str(disk), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_bare_tokenizer_model_gets_its_files(make_folder: Make, shared_data: Path, tmp_path: Path) -> None:
    """config, weights and tokenizer.model, as Llama 2 was given out; the source stays as it is."""
    disk = make_folder(ModelInfo("base"), "bare", vocab_size=512)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "steerlm.json"):
        (disk / name).unlink()
    (disk / "tokenizer.model").write_bytes((shared_data / "stories260K" / "tokenizer.model").read_bytes())
    before, text = names(disk), "Once upon a time,\nthere was  an owl."
    fetch_model(str(disk), tmp_path / "m")
    wanted = load_tokenizer(shared_data / "stories260K")(text)["input_ids"]
    assert load_tokenizer(tmp_path / "m")(text)["input_ids"] == wanted
    assert names(disk) == before


def test_a_model_of_ours_stays_what_it_is(make_folder: Make, tmp_path: Path) -> None:
    info = ModelInfo("reward", attributes=OWN, window=64, license="mit")
    source = make_folder(info, "ours")
    fetch_model(str(source), tmp_path / "m")
    assert read_info(tmp_path / "m") == info
    for path in source.iterdir():
        assert (tmp_path / "m" / path.name).read_bytes() == path.read_bytes()
