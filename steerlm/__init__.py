# SPDX-License-Identifier: Apache-2.0
"""SteerLM: train, annotate, condition, serve and steer language models by human-readable attributes."""

import os

# The OpenMP threads of a process spin while they wait for each other. Where another program needs one of their cores,
# that is most of the time: serving took three times as long (docs/benchmarks.md). Asleep, they take none. OpenMP reads
# this when torch is imported; it is set here because every process that computes imports this package first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.2.0"
