"""Previews, validation and logs in a real ComfyUI: what a page is sent and what lies in the output folder."""
from __future__ import annotations

import asyncio
import csv
import io
import struct
import threading
from pathlib import Path

import aiohttp
from PIL import Image

from .defaults import new_graph
from .server import Comfy, Graph, add_data_set, add_training
from .test_event_file import scalars

CLIENT = "a-page"
PREVIEW_IMAGE = 1  # the host's BinaryEventTypes


class Page:
    """Listens as a page does; `pictures` are those that it was sent."""

    def __init__(self, url: str) -> None:
        self.pictures: list[Image.Image] = []
        self.connected, self.loop, self.done = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(self.listen(f"{url}/ws?clientId={CLIENT}")))

    def __enter__(self) -> Page:
        self.thread.start()
        assert self.connected.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self.loop.call_soon_threadsafe(self.done.set)
        self.thread.join(30)
        self.loop.close()

    async def listen(self, url: str) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
            self.connected.set()
            reading = asyncio.ensure_future(self.read(socket))
            await self.done.wait()
            reading.cancel()

    async def read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY and struct.unpack(">I", message.data[:4]) == (PREVIEW_IMAGE,):
                self.pictures.append(Image.open(io.BytesIO(message.data[8:])))


def watched(graph: Graph, name: str) -> None:
    training = add_training(graph, steps=4, name=name)
    _, arranged = add_data_set(graph, training.model[2])
    held_out = graph.add("MaskedLoRA_EncodeTrainingSet", data_set=arranged[0], clip=training.model[1], vae=training.model[2],
                         padding=training.padding[0], name="held out")
    previews = graph.add("MaskedLoRA_Previews", clip=training.model[1], vae=training.model[2], prompts="a pibo\na red ball", negative="",
                         every=2, width=64, height=64, steps=2, cfg=1.0, sampler="euler", scheduler="simple", seed=0, at_start=True)
    validation = graph.add("MaskedLoRA_Validation", training_set=held_out[0], every=4, levels="0.3 0.7", draws=1, seed=0)
    logs = graph.add("MaskedLoRA_Logs", table=True, tensorboard=True, plot_every=2)
    graph.prompt[training.trained.id]["inputs"] |= {"previews": previews[0], "validation": validation[0], "logs": logs[0]}
    graph.add("PreviewAny", source=training.trained[2])


def test_a_watched_training_shows_pictures_and_leaves_them_and_its_log(comfy: Comfy) -> None:
    graph = new_graph(comfy)
    watched(graph, "watched")
    with Page(comfy.server.url) as page:
        status, answer = comfy.post("/prompt", {"prompt": graph.prompt, "client_id": CLIENT})
        assert status == 200, answer
        run = comfy.wait(answer["prompt_id"])
    assert not run.failure, comfy.log()[-3000:]
    folders = {kind: next(Path(comfy.server.output).rglob(f"watched_{kind}")) for kind in ("previews", "logs")}
    names = [f"step_{step:06d}_{number}.png" for step in (0, 2, 4) for number in (0, 1)]
    assert sorted(f.name for f in folders["previews"].iterdir()) == ["grid.png", *names]
    assert len(page.pictures) == 7, "six pictures and the grid"
    with (folders["logs"] / "steps.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["events"] for row in rows] == ["preview; base validation", "", "preview", "", "preview; validation"]
    assert float(rows[0]["validation_inside"]) > 0
    assert (folders["logs"] / "plot.png").stat().st_size > 10_000
    (events,) = folders["logs"].glob("*tfevents*")
    assert {step for step, name, _ in scalars(events) if name == "loss/trained"} == {1, 2, 3, 4}


def test_settings_that_mean_nothing_are_told_at_the_node(comfy: Comfy) -> None:
    graph = new_graph(comfy)
    watched(graph, "refused")
    (node,) = graph.ids("MaskedLoRA_Validation")
    graph.prompt[node]["inputs"]["levels"] = "0.3, low"
    assert "validation levels are '0.3, low'" in comfy.error(graph, "MaskedLoRA_Validation")
