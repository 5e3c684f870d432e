# SPDX-License-Identifier: Apache-2.0
"""torch.compile is left to megatron where there is an accelerator."""

import subprocess
import sys

IMPORT = """
import torch
calls = []

def compiled(function=None, **options):
    calls.append(function)
    return function or compiled

torch.compile = compiled
torch.cuda.is_available = lambda: True
import steerlm.megatron
assert torch.compile is compiled
print(len(calls))
"""


def test_with_an_accelerator_megatrons_fusions_are_compiled() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10
