# SPDX-License-Identifier: Apache-2.0
"""The container images: where they are, what they are built from, and the program that builds them."""
