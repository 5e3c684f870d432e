# SPDX-License-Identifier: Apache-2.0
"""How the commands write a number of bytes."""


def size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"
