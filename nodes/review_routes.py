"""What the page asks of Review Masks: its list, small pictures, what a person says of a mask, and the way to the mask editor and back.

A request names a folder by the key that the node registered when it ran, and a picture by its path in that folder's journal: no path of
a request is ever opened.
"""
from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from server import PromptServer

    from ..host.mask_review import MaskReview

logger = logging.getLogger(__name__)
PATH = "/masked_lora/review"
EVENT = "masked_lora_review"
LONGEST = 5000  # characters of a text in a request
AGE = 86400  # seconds that a browser keeps a small picture; its address has its version
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Reviews:
    """The folders that Review Masks nodes showed since ComfyUI started. The server's app holds the one that there is."""

    def __init__(self) -> None:
        self._by_key: dict[str, MaskReview] = {}
        self.marks = self.edits = 0

    def add(self, review: MaskReview) -> None:
        self._by_key[review.key] = review

    def get(self, key: object) -> MaskReview:
        found = self._by_key.get(key) if isinstance(key, str) else None
        if found is None:
            raise LookupError("these masks are not open; run Review Masks again")
        return found

    async def list(self, request: web.Request) -> web.StreamResponse:
        review = self.get(request.query.get("set"))
        cards = await asyncio.to_thread(review.cards)
        return web.json_response({"pictures": [card.to_dict() for card in cards]})

    async def tile(self, request: web.Request) -> web.StreamResponse:
        review = self.get(request.query.get("set"))
        picture = _text(request.query, "picture")
        body = await asyncio.to_thread(_webp, review, picture)
        return web.Response(body=body, content_type="image/webp", headers={"Cache-Control": f"private, max-age={AGE}"})

    async def mark(self, request: web.Request) -> web.StreamResponse:
        from ..host.mask_review import MaskChanged

        body = await _body(request)
        review, picture, said, version = self.get(body.get("set")), *(_text(body, name) for name in ("picture", "review", "version"))
        try:
            card = await asyncio.to_thread(review.mark, picture, said, version)  # type: ignore[arg-type]  # mark refuses other texts
        except MaskChanged as changed:
            return web.json_response({"error": str(changed), "card": changed.card.to_dict()}, status=409)
        self.marks += 1
        return web.json_response(card.to_dict())

    async def edit(self, request: web.Request) -> web.StreamResponse:
        from ..host.mask_editing import open_for_editor

        body = await _body(request)
        return web.json_response(await asyncio.to_thread(open_for_editor, self.get(body.get("set")), _text(body, "picture")))

    async def edited(self, request: web.Request) -> web.StreamResponse:
        from ..host.mask_editing import take_from_editor

        body = await _body(request)
        image = body.get("image")
        if not isinstance(image, dict):
            raise ValueError("send JSON with an object image: the file that the mask editor saved")
        card = await asyncio.to_thread(take_from_editor, self.get(body.get("set")), _text(body, "picture"), image)
        self.edits += 1
        return web.json_response(card.to_dict())


REVIEWS = web.AppKey("masked_lora_reviews", Reviews)


def add_routes(server: PromptServer) -> None:
    """Called once, as the pack is loaded. A second copy of the pack finds the paths taken and leaves them to the first."""
    if any(str(getattr(route, "path", "")).startswith(PATH) for route in server.routes):
        logger.warning("Masked LoRA: another copy of the pack answers %s; Review Masks works in that one only", PATH)
        return
    server.app[REVIEWS] = reviews = Reviews()
    server.routes.get(f"{PATH}/list")(_in_words(reviews.list))
    server.routes.get(f"{PATH}/tile")(_in_words(reviews.tile))
    server.routes.post(f"{PATH}/mark")(_in_words(reviews.mark))
    server.routes.post(f"{PATH}/edit")(_in_words(reviews.edit))
    server.routes.post(f"{PATH}/edited")(_in_words(reviews.edited))


def changes(wait: bool) -> str:
    """Another text after each edited mask, so that what comes behind reads it; with `wait` also after each mark.

    It counts from ComfyUI's start, as its cache does, and over all folders. A mark alone changes no mask, and must not train anew.
    """
    reviews = _reviews()
    return "" if reviews is None else f"{reviews.edits} {reviews.marks if wait else ''}"


def open_on_page(found: Sequence[MaskReview]) -> list[str]:
    """Lets the page ask for these masks; returns the keys by which it does."""
    reviews = _reviews()
    for review in found if reviews is not None else ():
        reviews.add(review)
    return [review.key for review in found]


def _reviews() -> Reviews | None:
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    return None if server is None else server.app.get(REVIEWS)


def show_on_page(keys: Sequence[str], node_id: str | None) -> None:
    """Tells the page that runs the graph to show these masks on a node, even though the node fails."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and server.client_id is not None and node_id is not None:
        server.send_sync(EVENT, {"sets": list(keys), "node": node_id}, server.client_id)


def _in_words(answer: Handler) -> Handler:
    """Problems become a status and a sentence: 404 for what is not there, 400 for what may not be or makes no sense."""
    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await answer(request)
        except LookupError as error:
            return web.json_response({"error": str(error.args[0])}, status=404)
        except (ValueError, OSError) as error:
            return web.json_response({"error": str(error)}, status=400)

    return handler


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ValueError("send a JSON object")
    return body


def _text(values: Any, name: str) -> str:
    text = values.get(name)
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError(f"send {name} as a text of at most {LONGEST} characters")
    return text


def _webp(review: MaskReview, picture: str) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(review.tile(picture)).save(data, "WEBP", quality=85)
    return data.getvalue()
