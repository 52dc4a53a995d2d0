"""How the adapter is moved: optimizer, learning rate over time, average of the weights."""
from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..trainer.optimizer import OPTIMIZERS
from . import types

CATEGORY = "masked lora/training"


def _setting(name: str, usual: float) -> io.Input:
    if name == "weight_decay":
        return io.Float.Input("weight_decay", default=usual, min=0.0, max=10.0, step=0.01, round=0.00001, advanced=True,
                              tooltip="How strongly weights are pulled to 0: by this share of the learning rate in every step.")
    if name == "eps":
        return io.Float.Input("eps", default=usual, min=1e-12, max=1.0, step=1e-8, round=1e-12, advanced=True,
                              tooltip="Added to the size of the gradients that steps are divided by.")
    what = {"beta1": "The average of gradients keeps this share in every step; less reacts faster.",
            "beta2": "The average of squared gradients keeps this share in every step; 0.99 for short runs.",
            "momentum": "Share of the last step that goes into the next; 0 is plain gradient descent."}
    return io.Float.Input(name, default=usual, min=0.0, max=0.99999, step=0.001, round=0.00001, advanced=True, tooltip=what[name])


def _optimizer() -> io.Input:
    rates = "; ".join(f"{name}: {kind.rate}" for name, kind in OPTIMIZERS.items())
    needs = ", ".join(f"{name} needs {' or '.join(kind.packages)}" for name, kind in OPTIMIZERS.items() if kind.packages)
    return io.DynamicCombo.Input(
        "optimizer", tooltip=f"The learning rate that each wants ({rates}) is set in Train Masked LoRA. Python packages: {needs}.",
        options=[io.DynamicCombo.Option(name, [_setting(*item) for item in kind.usual.items()]) for name, kind in OPTIMIZERS.items()])


def _schedule() -> io.Input:
    option = io.DynamicCombo.Option
    minimum = io.Float.Input("minimum", default=0.0, min=0.0, max=0.99, step=0.01, round=0.0001,
                             tooltip="Share of the learning rate that the schedule ends at.")
    return io.DynamicCombo.Input(
        "schedule", tooltip="The learning rate over the run. Prodigy and the schedule-free optimizer want constant.", options=[
            option("constant", []),
            option("linear", [minimum]),
            option("cosine", [minimum]),
            option("cosine with restarts", [
                io.Int.Input("cycles", default=3, min=1, max=1000, tooltip="How often the rate starts again from the top."), minimum]),
            option("polynomial", [
                io.Float.Input("power", default=2.0, min=0.05, max=20.0, step=0.1, round=0.001,
                               tooltip="What is left of the run to this power: 1 is linear, above 1 falls fast at first."), minimum]),
            option("rex", [minimum]),
        ])


def _ema() -> io.Input:
    return io.DynamicCombo.Input(
        "ema", tooltip="The LoRA that is saved and previewed is a running average of the weights: smoother than any one step.", options=[
            io.DynamicCombo.Option("off", []),
            io.DynamicCombo.Option("on", [
                io.Float.Input("decay", default=0.999, min=0.0001, max=0.999999, step=0.001, round=0.000001,
                               tooltip="Share of the average that stays in every update: 0.999 averages over about 1000 updates."),
                io.Int.Input("every", default=1, min=1, max=10_000, advanced=True, tooltip="Update the average every so many steps."),
                io.Boolean.Input("decay_warmup", default=True, advanced=True,
                                 tooltip="Average over little at first, so that short runs do not end at weights from their start.")]),
        ])


class Optimizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_Optimizer",
            display_name="Optimizer and Schedule",
            category=CATEGORY,
            description="Which optimizer trains the LoRA, how its learning rate changes over the run, and whether weights are averaged.",
            search_aliases=["adamw", "adam", "sgd", "adafactor", "8-bit adamw", "bitsandbytes", "prodigy", "schedule-free",
                            "learning rate scheduler", "warmup", "cosine", "rex", "ema"],
            inputs=[
                _optimizer(),
                _schedule(),
                io.Int.Input("warmup", default=0, min=0, max=100_000,
                             tooltip="Steps in which the learning rate rises from 0. For Adam and schedule-free 5 % of the run is usual."),
                _ema(),
            ],
            outputs=[types.Optimizer.Output(display_name="optimizer", tooltip="For Train Masked LoRA.")],
        )

    @classmethod
    def execute(cls, optimizer: dict[str, Any], schedule: dict[str, Any], warmup: int, ema: dict[str, Any]) -> io.NodeOutput:
        from ..trainer.ema import EmaSpec
        from ..trainer.optimizer import Optimization, OptimizerSpec, check_library
        from ..trainer.schedule import ScheduleSpec

        def settings(chosen: dict[str, Any], name: str) -> dict[str, Any]:
            return {key: value for key, value in chosen.items() if key != name}

        spec = OptimizerSpec(name=optimizer["optimizer"], **settings(optimizer, "optimizer"))
        check_library(spec)  # before anything is encoded or trained
        average = EmaSpec(decay=ema["decay"], every=ema["every"], warmup=ema["decay_warmup"]) if ema["ema"] == "on" else None
        return io.NodeOutput(Optimization(
            optimizer=spec, schedule=ScheduleSpec(name=schedule["schedule"], warmup=warmup, **settings(schedule, "schedule")), ema=average))
