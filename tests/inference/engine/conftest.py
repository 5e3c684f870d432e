# SPDX-License-Identifier: Apache-2.0
"""The engine is tested on the server's model folders."""

from tests.serving.conftest import policy_folder, taught_folder, tokenizer_folder

__all__ = ["policy_folder", "taught_folder", "tokenizer_folder"]
