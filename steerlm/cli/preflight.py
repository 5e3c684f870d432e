# SPDX-License-Identifier: Apache-2.0
"""`steerlm preflight`: measure the nodes before a long training does."""

import typer

app = typer.Typer()

EPILOG = "Example: steerlm preflight --profile cluster.yaml --min-busbw 300"


@app.command(epilog=EPILOG)
def preflight(
    profile: str = typer.Option("laptop", "--profile", help="A shipped profile's name or a path."),
    nodes: int | None = typer.Option(None, "--nodes", min=1, help="Default: as many as the profile's largest layout."),
    devices: int | None = typer.Option(
        None, "--devices", min=1, help="Processes per node; default: as many as the profile's largest layout."
    ),
    min_busbw: float | None = typer.Option(
        None,
        "--min-busbw",
        min=0,
        help="Least bus bandwidth of an all-reduce in GB/s, of each pair of nodes and of all; below it: exit status 1.",
    ),
    min_write: float | None = typer.Option(
        None, "--min-write", min=0, help="Least speed in GB/s at which each node writes into the workspace."
    ),
    reduce_mib: int = typer.Option(1024, "--reduce-mib", min=1, help="Size of the all-reduce in MiB."),
    write_mib: int = typer.Option(1024, "--write-mib", min=1, help="Size of the file that each node writes in MiB."),
    set_: list[str] = typer.Option([], "--set", help="Override a setting of the profile (repeatable)."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure network, GPUs, memory and disks of the nodes, with a job of the profile's own back end and image.

    Times torch's all-reduce over pairs of nodes and over all, and reports for each node its GPUs, the size of /dev/shm,
    the memory that may be locked, and space and write speed of the workspace. The exit status is 1 if a node has less
    than the profile's jobs need, or a speed is below its minimum.
    """
    from steerlm.errors import TrainingError
    from steerlm.jobs.preflight_spec import table
    from steerlm.pipeline.preflight import (
        PreflightOptions,
        preflight_layout,
        preflight_problems,
        run_preflight,
        submit_preflight,
    )
    from steerlm.pipeline.submit import is_submitted
    from steerlm.recipe import load_profile

    chosen = load_profile(profile, set_)
    layout = preflight_layout(chosen, nodes, devices)
    options = PreflightOptions(layout=layout, reduce_bytes=reduce_mib << 20, write_bytes=write_mib << 20)
    measure = submit_preflight if is_submitted(chosen) else run_preflight
    report = measure(chosen, options, lambda line: typer.echo(line, err=True))
    typer.echo(report.model_dump_json(indent=2) if as_json else table(report))
    found = preflight_problems(chosen, layout, report, _bytes(min_busbw), _bytes(min_write))
    for problem in found:
        typer.echo(problem, err=True)
    if found:
        raise TrainingError(f"preflight found {len(found)} problem{'s' if len(found) > 1 else ''}, listed above")


def _bytes(gigabytes: float | None) -> float | None:
    return None if gigabytes is None else gigabytes * 1e9
