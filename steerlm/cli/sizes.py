# SPDX-License-Identifier: Apache-2.0
"""Format a number of bytes for the commands' output."""


def size(count: float) -> str:
    """Return a number of bytes in GiB or MiB.

    >>> size(3 << 30)
    '3.0 GiB'
    """
    return f"{count / 2**30:,.1f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"
