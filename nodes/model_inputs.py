"""What the nodes that load models for masks have in common: which model, and the consent to its licence."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

if TYPE_CHECKING:
    from ..segmentation.catalogue import Family


def model_inputs(tooltip: str, *families: Family) -> list[io.Input]:
    """`model` and `accept_licence`; their values go to host.model_files.find. tooltip: of the model."""
    from ..host.model_files import choices

    return [
        io.Combo.Input("model", options=choices(*families), tooltip=tooltip),
        io.Boolean.Input(
            "accept_licence", default=False,
            tooltip="Needed once, to download: says that you read the licence and its limits, which the node names before. Not for files "
            "that are there."),
    ]
