# SPDX-License-Identifier: Apache-2.0
"""What a launcher's pod runs: `python -m steerlm.cli.launch FOLDER`, the folder with recipe, profile and options.

Its output is what `steerlm run` shows to the one who submitted it. With the options of a preflight in place of a
recipe, it is what `steerlm preflight` reads.
"""

import os
import sys
from pathlib import Path

import typer

from steerlm.cli.main import exit_status
from steerlm.signals import interrupt_on_sigterm


def launch(folder: Path) -> None:
    """Run the pipeline or the preflight that a folder describes.

    Raises:
        SteerLMError: What `run_pipeline` or `run_preflight` raises.
    """
    from steerlm.cli.run import run_and_show
    from steerlm.pipeline.preflight import PREFLIGHT, print_preflight
    from steerlm.pipeline.submit import OPTIONS, PROFILE, RECIPE
    from steerlm.recipe import Profile, Recipe, ResolvedRecipe, RunOptions

    if (folder / PREFLIGHT).exists():
        print_preflight(
            Profile.model_validate_json((folder / PROFILE).read_bytes()), (folder / PREFLIGHT).read_text(), typer.echo
        )
        return
    resolved = ResolvedRecipe(
        Recipe.model_validate_json((folder / RECIPE).read_bytes()),
        Profile.model_validate_json((folder / PROFILE).read_bytes()),
        RunOptions.model_validate_json((folder / OPTIONS).read_bytes()),
    )
    run_and_show(resolved, output=None)


if __name__ == "__main__":
    os.umask(0o002)  # the workspace belongs to a group
    interrupt_on_sigterm("terminated before the pipeline started")
    sys.exit(exit_status(lambda: launch(Path(sys.argv[1]))))
