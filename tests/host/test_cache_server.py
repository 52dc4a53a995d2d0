"""A cache that lost files, in a real ComfyUI, which serves the encoded set from a cache of its own: pressing Run again repairs it."""
from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from .defaults import Page, new_graph
from .server import Comfy, Run, Training, add_data_set, add_training, write_mask, write_picture

TRAIN = "MaskedLoRA_Train"
PICTURES = 6


@dataclass(slots=True)
class Session:
    """A graph that trains, and a person who presses Run."""

    comfy: Comfy
    graph: Page
    training: Training
    seed: int = 0

    def another_seed(self) -> None:
        self.seed += 1
        self.graph.prompt[self.training.trained.id]["inputs"]["seed"] = self.seed

    def works(self, *, encoded: int | None) -> Run:
        """How many pictures are encoded anew; None: ComfyUI has the set."""
        run = self.comfy.run(self.graph)
        assert self.training.trained.id not in run.cached
        assert (self.training.encoded.id in run.cached) == (encoded is None)
        if encoded is not None:
            assert f"{PICTURES} pictures: {encoded} encoded, {PICTURES - encoded} from the cache" in run.text(self.training.encoded)
        return run


@pytest.fixture
def session(comfy: Comfy, request: pytest.FixtureRequest) -> Session:
    """Trained once on six pictures of its own, and once more with the set that ComfyUI keeps."""
    name = re.sub(r"\W+", "_", request.node.name)
    for seed in range(PICTURES):
        write_picture(comfy.input / name / f"{seed}.png", seed=zlib.crc32(name.encode()) + seed)
        write_mask(comfy.input / name / "masks" / f"{seed}.png")
    graph = new_graph(comfy)
    session = Session(comfy, graph, add_training(graph, folder=name, steps=2, name=name))
    session.works(encoded=PICTURES)
    session.another_seed()
    session.works(encoded=None)
    session.another_seed()
    return session


def latents(comfy: Comfy) -> list[Path]:
    return sorted((cache(comfy) / "latents").rglob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)


def cache(comfy: Comfy) -> Path:
    return comfy.server.data / "user" / "masked_lora" / "cache"


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(("harm", "says"), [
    (damage, r"\.safetensors is damaged \(its checksum is wrong\); run Encode Training Set again"),
    (Path.unlink, r"^2 of 6 examples have lost files \(2 latents\).*; run Encode Training Set again"),
])
def test_pressing_run_again_repairs_what_was_harmed(comfy: Comfy, session: Session, harm: Callable[[Path], None], says: str) -> None:
    """One error in words; then the harmed files alone are encoded, and from then on ComfyUI has the set again."""
    for file in latents(comfy)[-2:]:
        harm(file)
    assert re.search(says, comfy.error(session.graph, TRAIN))
    session.works(encoded=2)
    session.another_seed()
    session.works(encoded=None)


def test_pressing_run_again_repairs_what_was_pruned(comfy: Comfy, session: Session) -> None:
    """Another set without a name replaces the first as the last encoded one, so pruning takes the first one's files."""
    shutil.rmtree(cache(comfy) / "running", ignore_errors=True)  # of runs that other tests stopped: they hold files for a day
    graph, training = session.graph, session.training
    session.seed -= 1
    graph.prompt[training.trained.id]["inputs"]["seed"] = session.seed
    _, smaller = add_data_set(graph, training.model[2], folder=graph.prompt[training.loaded.id]["inputs"]["folder"], size=64)
    graph.add("MaskedLoRA_EncodeTrainingSet", data_set=smaller[0], clip=training.model[1], vae=training.model[2],
              padding=training.padding[0], name="")
    assert {training.encoded.id, training.trained.id} <= comfy.run(graph).cached
    node = graph.add("MaskedLoRA_CleanCache", action="prune", unused_hours=0.0)
    run = comfy.run(graph)
    assert {training.encoded.id, training.trained.id} <= run.cached
    removed = re.search(r"removed: (\d+) files", run.text(node))
    assert removed is not None
    assert int(removed[1]) >= PICTURES
    graph.prompt[node.id]["inputs"]["action"] = "list"
    session.another_seed()
    assert "6 of 6 examples have lost files (6 latents, 1 mask)" in comfy.error(graph, TRAIN)
    session.works(encoded=PICTURES)
