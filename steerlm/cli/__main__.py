# SPDX-License-Identifier: Apache-2.0
"""`python -m steerlm.cli` is the `steerlm` command."""

from steerlm.cli.main import run

run()
