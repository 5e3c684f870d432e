# SPDX-License-Identifier: Apache-2.0
"""SteerLM: train, annotate, condition, serve and steer language models by human-readable attributes."""

__version__ = "0.2.0"
