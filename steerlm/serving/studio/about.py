# SPDX-License-Identifier: Apache-2.0
"""`GET /v1/studio`: what this server offers its page beyond the model's own routes."""

from fastapi import APIRouter, Request
from pydantic import BaseModel

from steerlm.serving.studio.parts import parts_of

router = APIRouter(tags=["studio"])


class StudioDescription(BaseModel):
    """What the page can do here.

    `descriptions`: a sentence about each attribute that has one. `scores`: whether a reward server scores answers.
    `ratings`: whether ratings are kept.
    """

    descriptions: dict[str, str]
    scores: bool
    ratings: bool


@router.get("/v1/studio", summary="What the page at /studio can do on this server")
async def about(request: Request) -> StudioDescription:
    """Describe the page's possibilities."""
    parts = parts_of(request)
    return StudioDescription(
        descriptions=parts.descriptions,
        scores=request.app.state.service.ranker is not None,
        ratings=parts.ratings is not None,
    )
