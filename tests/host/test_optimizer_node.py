"""The node Optimizer and Schedule in the real server: what it makes of its settings, and what it says of a package that is missing."""
from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from pack.trainer.ema import EmaSpec
from pack.trainer.optimizer import OPTIMIZERS, Optimization, OptimizerSpec
from pack.trainer.schedule import SCHEDULES, ScheduleSpec

from .server import Comfy, Graph, Node, add_training

ADAM = {"weight_decay": 0.02, "beta1": 0.8, "beta2": 0.95, "eps": 1e-7}


def under(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A choice and its settings, as the page sends them."""
    return {name if key == name else f"{name}.{key}": value for key, value in settings.items()}


def add_optimizer(graph: Graph, optimizer: dict[str, Any], schedule: dict[str, Any] | None = None, warmup: int = 0,
                  ema: dict[str, Any] | None = None) -> Node:
    return graph.add("MaskedLoRA_Optimizer", warmup=warmup, **under("optimizer", optimizer),
                     **under("schedule", schedule or {"schedule": "constant"}), **under("ema", ema or {"ema": "off"}))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"optimizer": {"optimizer": "adamw", **ADAM}, "schedule": {"schedule": "cosine", "minimum": 0.1}, "warmup": 5},
         Optimization(optimizer=OptimizerSpec(**ADAM), schedule=ScheduleSpec(name="cosine", warmup=5, minimum=0.1))),
        ({"optimizer": {"optimizer": "sgd", "weight_decay": 0.0, "momentum": 0.5},
          "schedule": {"schedule": "cosine with restarts", "cycles": 4, "minimum": 0.0},
          "ema": {"ema": "on", "decay": 0.99, "every": 2, "decay_warmup": False}},
         Optimization(optimizer=OptimizerSpec(name="sgd", weight_decay=0.0, momentum=0.5),
                      schedule=ScheduleSpec(name="cosine with restarts", cycles=4), ema=EmaSpec(decay=0.99, every=2, warmup=False))),
        ({"optimizer": {"optimizer": "adafactor", "weight_decay": 0.1},
          "schedule": {"schedule": "polynomial", "power": 3.0, "minimum": 0.25}},
         Optimization(optimizer=OptimizerSpec(name="adafactor", weight_decay=0.1),
                      schedule=ScheduleSpec(name="polynomial", power=3.0, minimum=0.25))),
    ],
)
def test_the_node_says_what_its_widgets_say(comfy: Comfy, settings: dict[str, Any], expected: Optimization) -> None:
    graph = Graph()
    shown = graph.add("PreviewAny", source=add_optimizer(graph, **settings)[0])
    assert comfy.run(graph).text(shown) == str(expected)


def choices(comfy: Comfy, name: str) -> dict[str, dict[str, Any]]:
    """The options of one of the node's menus, each with the settings that appear below it and their specifications."""
    options = comfy.object_info["MaskedLoRA_Optimizer"]["input"]["required"][name][1]["options"]
    return {o["key"]: {k: v for group in o["inputs"].values() for k, v in group.items()} for o in options}


def test_the_menus_offer_what_the_trainer_has(comfy: Comfy) -> None:
    offered = choices(comfy, "optimizer")
    assert list(offered) == list(OPTIMIZERS)
    for name, settings in offered.items():
        assert {key: spec[1]["default"] for key, spec in settings.items()} == OPTIMIZERS[name].usual
    schedules = choices(comfy, "schedule")
    assert list(schedules) == list(SCHEDULES)
    for name, settings in schedules.items():
        ScheduleSpec(name=name, **{key: spec[1]["default"] for key, spec in settings.items()})  # refuses what it would ignore
    assert all(spec[1].get("tooltip") for menu in ("optimizer", "schedule", "ema") for settings in choices(comfy, menu).values()
               for spec in settings.values())


@pytest.mark.skipif(importlib.util.find_spec("prodigyopt") is not None, reason="the package is there")
def test_a_missing_package_is_named_on_the_node(comfy: Comfy) -> None:
    graph = Graph()
    graph.add("PreviewAny", source=add_optimizer(graph, {"optimizer": "prodigy", **ADAM})[0])
    error = comfy.error(graph, "MaskedLoRA_Optimizer")
    assert "prodigy needs the Python package prodigyopt" in error
    assert "pip install prodigyopt" in error


def fill_in(comfy: Comfy, graph: Graph) -> None:
    """The usual value of every setting that the graph leaves out, as the page sends it."""
    for node in graph.prompt.values():
        for name, (_, *options) in comfy.object_info[node["class_type"]]["input"].get("required", {}).items():
            if options and "default" in options[0]:
                node["inputs"].setdefault(name, options[0]["default"])


def test_training_goes_by_the_node(comfy: Comfy) -> None:
    """A warm-up as long as the run is refused by Train, so the settings have arrived there; then a run goes through."""
    graph = Graph()
    made = add_training(graph, name="by_the_node")
    fill_in(comfy, graph)
    for warmup, refused in ((3, True), (2, False)):
        chosen = add_optimizer(graph, {"optimizer": "adam", **ADAM}, {"schedule": "rex", "minimum": 0.0}, warmup,
                               {"ema": "on", "decay": 0.9, "every": 1, "decay_warmup": True})
        graph.prompt[made.trained.id]["inputs"]["optimizer"] = chosen[0]
        if refused:
            assert "the warm-up takes 3 of 3 steps" in comfy.error(graph, "MaskedLoRA_Train")
        else:
            assert '"steps": 3' in comfy.run(graph).text(made.trained)
