"""A folder of pictures, masks and captions as lists. White = learn."""
from __future__ import annotations

import time

from comfy_api.latest import io

MASK_SOURCES = ["folder", "alpha", "none"]
MISSING_MASK = ["error", "all ones", "skip"]


class LoadFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MaskedLoRA_LoadFolder",
            display_name="Load Training Folder",
            category="masked lora/dataset",
            description="Reads pictures with their masks (white = learn) and captions from a folder and reports what is missing.",
            search_aliases=["load dataset", "image folder", "training pictures", "captions", "masked training data"],
            inputs=[
                io.String.Input(
                    "folder", default="demo",
                    tooltip="A folder inside ComfyUI's input directory; 'demo' is the bundled example. Pictures lie in it, "
                    "captions beside them as <name>.txt, masks in masks/<name>.png (white = learn)."),
                io.Combo.Input(
                    "mask_source", options=MASK_SOURCES, default="folder",
                    tooltip="Where masks come from. White = learn. folder: masks/<name>.<type>. alpha: each picture's own "
                    "transparency, opaque = white = learn. none: every pixel is learned."),
                io.Combo.Input(
                    "missing_mask", options=MISSING_MASK, default="error",
                    tooltip="A picture without a mask: error stops and names it; all ones learns it everywhere, like white "
                    "(white = learn); skip leaves it out. The report counts them."),
                io.Int.Input(
                    "size", default=512, min=128, max=2048, step=16,
                    tooltip="Side of the square training pictures, in pixels. Picture and mask (white = learn) are cropped to "
                    "the centre and resized together."),
            ],
            outputs=[
                io.Image.Output(display_name="images", is_output_list=True, tooltip="One picture each."),
                io.Mask.Output(display_name="masks", is_output_list=True, tooltip="One mask for each picture. White = learn."),
                io.String.Output(display_name="captions", is_output_list=True, tooltip="One for each picture, or empty."),
                io.String.Output(display_name="names", is_output_list=True, tooltip="File names without their endings."),
                io.String.Output(display_name="report", tooltip="What was found, what was missing, how much is white (learned)."),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        from ..host.folders import resolve_input_folder

        try:
            # None: the name comes from another node and is not known yet
            if folder is not None:
                resolve_input_folder(folder)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, mask_source: str, missing_mask: str, size: int) -> str:
        from ..dataset.folder import folder_fingerprint
        from ..host.folders import resolve_input_folder

        # A name from another node is not known yet; without a fingerprint the folder is read again in each run.
        return folder_fingerprint(resolve_input_folder(folder)) if folder is not None else str(time.time_ns())

    @classmethod
    def execute(cls, folder: str, mask_source: str, missing_mask: str, size: int) -> io.NodeOutput:
        from ..dataset.folder import scan_folder
        from ..dataset.load import load_example, loading_report
        from ..host.folders import resolve_input_folder

        scan = scan_folder(resolve_input_folder(folder), mask_source, missing_mask)
        pictures = [load_example(triple, size) for triple in scan.triples]
        return io.NodeOutput(
            [picture.image_HWC[None] for picture in pictures],
            [picture.mask_HW[None] for picture in pictures],
            [triple.caption for triple in scan.triples],
            [triple.name for triple in scan.triples],
            f"{scan.report}\n{loading_report(pictures, size)}",
        )
