"""`python -m steerlm.cli` is the `steerlm` command."""

from steerlm.cli.main import run

run()
