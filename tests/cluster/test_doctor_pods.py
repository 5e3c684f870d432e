# SPDX-License-Identifier: Apache-2.0
"""The doctor with its pods, and the preflight: what they find on the lab, whose profile is right for it."""

import json
import subprocess
import sys

from tests.cluster.platform import NAMESPACE
from tests.cluster.product import Product
from tests.cluster.product import product as product

SUBJECTS = ("cluster", "PyTorchJob", "namespace", "access", "queue", "fabric", "nodes", "workspace", "rbac")
FROM_INSIDE = ("store", "mlflow", "image")


def steerlm(product: Product, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "steerlm.cli", *words, "--profile", "lab", *product.images()]
    return subprocess.run(command, env=product.environment, capture_output=True, text=True, timeout=600)


def test_the_doctors_pods_find_all_well(product: Product) -> None:
    done = steerlm(product, "doctor", "--recipe", "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    subjects = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("ok ")}
    assert subjects >= {*SUBJECTS, *FROM_INSIDE}, done.stdout
    left = [pod["metadata"]["name"] for pod in product.objects("pods")]
    assert not [name for name in left if name.startswith("steerlm-doctor-")]


def test_the_doctors_pods_find_wrong_keys_of_the_store(product: Product) -> None:
    keys = {"stringData": {"AWS_SECRET_ACCESS_KEY": "wrong", "AWS_ACCESS_KEY_ID": "wrong"}}
    product.cluster.kubectl("-n", NAMESPACE, "patch", "secret", "steerlm-store", "-p", json.dumps(keys))
    try:
        done = steerlm(product, "doctor")
    finally:
        product.store_secret()
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert [line.split()[1] for line in wrong] == ["store"], done.stdout


def test_the_preflight_measures_two_nodes(product: Product) -> None:
    """One job of the profile's own back end and image; a speed below the minimum is an error."""
    sizes = ("--reduce-mib", "8", "--write-mib", "16")
    done = steerlm(product, "preflight", *sizes, "--json", "--min-write", "1000")
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert len(report["nodes"]) == 2, report
    assert "preflight found 2 problems" in done.stderr, done.stderr
