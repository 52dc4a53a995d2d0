"""Finish now: end a training after its step, and go on through the graph with what it has learned."""
from __future__ import annotations

import logging
from threading import Lock
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from server import PromptServer

    from ..trainer.example import StepReport
    from .run import ActiveRun

logger = logging.getLogger(__name__)
PATH = "/masked_lora/finish"
LONGEST = 200  # characters of an id


class FinishEarly(Exception):
    """Raised by an observer: the run is over, and what it has learned goes on through the graph."""


class RunningTrainings:
    """Which trainings go on, by prompt and node, and which of them are asked to finish. The server's app holds the one that there is."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str], bool] = {}
        self._lock = Lock()  # the server and the graph run in threads of their own

    def begin(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._asked[key] = False

    def end(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._asked.pop(key, None)

    def ask(self, key: tuple[str, str]) -> bool:
        """Whether there is such a training; it ends after its step."""
        with self._lock:
            found = key in self._asked
            if found:
                self._asked[key] = True
            return found

    def asked(self, key: tuple[str, str]) -> bool:
        with self._lock:
            return self._asked.get(key, False)

    async def answer(self, request: web.Request) -> web.Response:
        """POST {"prompt_id": ..., "node_id": ...}; the ids are those of ComfyUI's progress messages."""
        try:
            body = await request.json()
        except ValueError:
            body = None
        key = (body.get("prompt_id"), body.get("node_id")) if isinstance(body, dict) else (None, None)
        if not all(isinstance(part, str) and 0 < len(part) <= LONGEST for part in key):
            return web.json_response({"error": "send JSON with the texts prompt_id and node_id"}, status=400)
        if not self.ask(key):
            return web.json_response({"error": "no such training is running"}, status=404)
        logger.info("Masked LoRA: node %s was asked to finish after this step", key[1])
        return web.json_response({"finishing": True})


TRAININGS = web.AppKey("masked_lora_trainings", RunningTrainings)


class FinishButton:
    """The last observer of a run, so that all others have seen the step after which it ends."""

    def __init__(self, trainings: RunningTrainings, prompt_id: str, node_id: str) -> None:
        self.trainings, self.key = trainings, (prompt_id, node_id)

    def started(self, run: ActiveRun) -> None:
        self.trainings.begin(self.key)

    def after_step(self, run: ActiveRun, report: StepReport) -> None:
        if self.trainings.asked(self.key):
            raise FinishEarly

    def ended(self, run: ActiveRun, finished: bool) -> None:
        self.trainings.end(self.key)


def add_route(server: PromptServer) -> None:
    """Called once, as the pack is loaded. A second copy of the pack finds the path taken and leaves it to the first."""
    if any(getattr(route, "path", None) == PATH for route in server.routes):
        logger.warning("Masked LoRA: another copy of the pack answers %s; 'Finish now' works in that one only", PATH)
        return
    server.app[TRAININGS] = trainings = RunningTrainings()
    server.routes.post(PATH)(trainings.answer)


def finish_button(node_id: str | None) -> FinishButton | None:
    """For the node that is being executed; None where no page could press it."""
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    trainings = server.app.get(TRAININGS) if server is not None else None
    if trainings is None or context is None or node_id is None:
        return None
    return FinishButton(trainings, context.prompt_id, node_id)
