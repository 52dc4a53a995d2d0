"""Training sets: encoded once, kept on disk under a name, opened again, cleaned up."""
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from . import types

if TYPE_CHECKING:
    from comfy.sd import CLIP, VAE

    from ..dataset.item import DataSet
    from ..dataset.texts import CaptionSpec
    from ..host.text_padding import TextPadding as Padding

CATEGORY = "masked lora/dataset"


class EncodeTrainingSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_EncodeTrainingSet",
            display_name="Encode Training Set",
            category=CATEGORY,
            description="Encodes pictures and captions once and keeps latents, raw masks (white = learn) and embeddings on disk. Only what "
                        "changed is encoded again; a new mask recipe encodes nothing.",
            search_aliases=["cache latents", "cache text encoder", "latent cache", "make training set", "training dataset"],
            is_output_node=True,
            inputs=[
                types.DataSet.Input("data_set", tooltip="Pictures or clips with their masks and captions. White = learn."),
                io.Clip.Input("clip", tooltip="The text encoders that the LoRA will be sampled with."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                types.TextPadding.Input("padding", tooltip="How the padding of captions is treated; saved in the LoRA, so "
                                        "that sampling can match."),
                io.String.Input("name", default="", tooltip="Open Training Set lists the set under this name. Empty: it counts as the "
                                "last encoded one, until the next."),
                types.Captions.Input("captions", optional=True, tooltip="From Caption Options: other orders of tags, other captions, and a "
                                     "text for dropped ones. Without it each picture has its caption alone."),
            ],
            outputs=[
                types.TrainingSet.Output(display_name="training set"),
                io.String.Output(display_name="report", tooltip="What was encoded, what came from the cache, and the kinds of batches."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str | None, **others: object) -> str:
        """Changes when files of the set were found damaged or gone: ComfyUI would serve the set from its own cache for ever."""
        from ..dataset.manifest import LAST, loss_stamp
        from ..host.folders import cache_folder

        # None: the name comes from another node and is not known yet.
        return loss_stamp(cache_folder(), None if name is None else name.strip() or LAST)

    @classmethod
    def execute(cls, data_set: DataSet, clip: CLIP, vae: VAE, padding: Padding, name: str,
                captions: CaptionSpec | None = None) -> io.NodeOutput:
        from ..host.encode import encode_data_set
        from ..host.folders import cache_folder
        from ..host.progress import Progress

        training_set = encode_data_set(data_set, clip, vae, padding, cache_folder(), Progress(cls.hidden.unique_id), name.strip(), captions)
        return io.NodeOutput(training_set, training_set.report, ui=ui.PreviewText(training_set.report))


class OpenTrainingSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..dataset.manifest import list_sets
        from ..host.folders import cache_folder

        return io.Schema(
            node_id="MaskedLoRA_OpenTrainingSet",
            display_name="Open Training Set",
            category=CATEGORY,
            description="Opens a training set that was encoded before, without its pictures, VAE or text encoders. Masks are kept raw "
                        "(white = learn).",
            search_aliases=["load training set", "load cached latents", "latent cache", "training dataset"],
            is_output_node=True,
            inputs=[io.Combo.Input("name", options=list_sets(cache_folder()), tooltip="A set that Encode Training Set saved; press R to "
                                   "refresh the list.")],
            outputs=[
                types.TrainingSet.Output(display_name="training set"),
                io.String.Output(display_name="report", tooltip="What the set holds, as it was told when it was encoded."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str) -> str:
        from ..dataset.manifest import set_fingerprint
        from ..host.folders import cache_folder

        return set_fingerprint(cache_folder(), name)

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        from ..dataset.manifest import open_set
        from ..host.folders import cache_folder

        training_set = open_set(cache_folder(), name)
        return io.NodeOutput(training_set, training_set.report, ui=ui.PreviewText(training_set.report))


class CleanCache(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_CleanCache",
            display_name="Clean Training Cache",
            category=CATEGORY,
            description="Lists the cache's files that no saved training set needs, and removes them. Pictures and masks (white = learn) "
                        "in your own folders are never touched.",
            search_aliases=["prune cache", "clear latent cache", "delete cached latents", "free disk space"],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.Combo.Input("action", options=["list", "prune"], default="list", tooltip="list: only tell. prune: remove them."),
                io.Float.Input("unused_hours", default=1.0, min=0.0, max=8760.0, step=1.0, round=0.01, advanced=True,
                               tooltip="Files that were made or used within so many hours stay: another run may still need them."),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="Counts and sizes of what is in use and what is not.")],
        )

    @classmethod
    def fingerprint_inputs(cls, action: str, unused_hours: float) -> float:
        return float("nan")  # never equal: the disk is looked at in every run

    @classmethod
    def execute(cls, action: str, unused_hours: float) -> io.NodeOutput:
        from ..dataset.prune import describe, prune, survey
        from ..dataset.words import counted
        from ..host.folders import cache_folder

        found = survey(cache_folder(), 3600 * unused_hours)
        report = describe(found) + (f"\nremoved: {counted(prune(found), 'file')}" if action == "prune" else "")
        return io.NodeOutput(report, ui=ui.PreviewText(report))
