"""What the pack answers to the page besides its nodes."""
from __future__ import annotations


def add_routes() -> None:
    """Once, as the pack is loaded; a ComfyUI without a server has nobody to answer to."""
    from server import PromptServer

    from ..host.finish import add_route
    from .review_routes import add_routes as add_review_routes

    if server := getattr(PromptServer, "instance", None):
        add_route(server)
        add_review_routes(server)
