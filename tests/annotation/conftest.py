# SPDX-License-Identifier: Apache-2.0
"""The tokenizer and the reward model of the inference tests."""

from tests.inference.conftest import _one_thread as _one_thread
from tests.inference.conftest import reward_folder as reward_folder
from tests.inference.conftest import tokenizer as tokenizer
