# SPDX-License-Identifier: Apache-2.0
"""`steerlm doctor`: what this machine or a cluster lacks, and the command that mends it."""

import typer

app = typer.Typer()

EPILOG = "Example: steerlm doctor; or, before a run on a cluster: steerlm doctor --profile cluster.yaml --recipe demo"


@app.command(epilog=EPILOG)
def doctor(
    profile: str | None = typer.Option(
        None, "--profile", help="A shipped profile's name or a path; default: the recipe's, or laptop."
    ),
    recipe: str | None = typer.Option(
        None, "--recipe", help="A shipped recipe's name or a path: compare memory and space with what it needs."
    ),
    set_: list[str] = typer.Option([], "--set", help="Override a setting (repeatable)."),
    pods: bool = typer.Option(
        True,
        "--pods/--no-pods",
        help="On a cluster, start two small pods that check the launcher's rights, the store, MLflow and the "
        "workspace from inside, and delete them.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Check what runs with a profile need, on this machine or on the profile's cluster.

    On this machine: Python, torch, GPUs, memory, disk, store, MLflow. On a cluster: versions and operators, the
    namespace, your rights and the launcher's, the queue and its quota, the network's settings, nodes, workspace,
    images, store and MLflow. Each line is ok, or says what is wrong and what mends it; the exit status is 1 if
    anything is.
    """
    from steerlm.jobs.finding import to_json
    from steerlm.pipeline.doctor import examine
    from steerlm.recipe import load_profile, load_recipe

    resolved = load_recipe(recipe, profile, set_) if recipe else None
    chosen = resolved.profile if resolved else load_profile(profile or "laptop", set_)
    findings = []
    for finding in examine(chosen, resolved, pods=pods):
        findings.append(finding)
        if not as_json:
            typer.echo(f"{'ok' if finding.ok else 'WRONG':6}{finding.subject:12}{finding.text}")
            if finding.mend:
                typer.echo(f"{'':18}to mend it: {finding.mend}")
    if as_json:
        typer.echo(to_json(findings))
    failed = sum(not finding.ok for finding in findings)
    if failed:
        typer.echo(f"{failed} of {len(findings)} checks failed", err=True)
        raise typer.Exit(1)
