# SPDX-License-Identifier: Apache-2.0
"""A job that prints its environment."""

import os
import sys

if __name__ == "__main__":
    sys.stdout.writelines(f"{name}={value}\n" for name, value in os.environ.items())
