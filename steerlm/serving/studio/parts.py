# SPDX-License-Identifier: Apache-2.0
"""Adds the studio to an app: its routes, and what they need."""

from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request

from steerlm.datasets.rating_folder import RatingFolder
from steerlm.serving.config import ServeSettings
from steerlm.serving.studio.descriptions import read_descriptions


@dataclass(frozen=True, slots=True)
class StudioParts:
    """What the studio's routes use, at `app.state.studio`. `ratings`: None if the server keeps none."""

    descriptions: dict[str, str]
    ratings: RatingFolder | None


def parts_of(request: Request) -> StudioParts:
    """Return the parts of the app that a request is for."""
    parts: StudioParts = request.app.state.studio
    return parts


def add_studio(app: FastAPI, routers: list[APIRouter], settings: ServeSettings) -> None:
    """Add the routes of the studio to an app that serves a policy or a base model.

    Raises:
        ConfigError: The descriptions are not those of the model.
        InputError: The place for ratings cannot be used.
    """
    app.state.studio = StudioParts(
        descriptions=read_descriptions(settings.descriptions, app.state.service.schema),
        ratings=RatingFolder(settings.ratings) if settings.ratings else None,
    )
    for router in routers:
        app.include_router(router)
