"""Masked LoRA, a pack of nodes for ComfyUI. ComfyUI calls comfy_entrypoint; nothing of ComfyUI is imported before that."""
from __future__ import annotations

import dataclasses
import logging
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

__version__ = "0.1.0"
WEB_DIRECTORY = "web"
OLDEST_HOST = "0.30.0"
# What the nodes use of comfy_api.latest and hosts before 0.30 lack, in part or in whole.
NEEDED_SCHEMA_FIELDS = frozenset({"search_aliases"})

logger = logging.getLogger(__name__)


async def comfy_entrypoint() -> ComfyExtension:
    """The pack's nodes; on a ComfyUI that is too old none, and one line in the log that says so."""
    from comfy_api.latest import ComfyExtension, io

    problem = too_old(host_version()) or lacking_api(io)
    if problem:
        logger.warning("Masked LoRA %s loads no nodes: %s", __version__, problem)
        nodes: list[type] = []
    else:
        from .nodes import NODES as nodes

    class MaskedLoRAExtension(ComfyExtension):
        async def on_load(self) -> None:
            if nodes:
                from .nodes.routes import add_routes

                add_routes()

        async def get_node_list(self) -> list[type]:
            return list(nodes)

    return MaskedLoRAExtension()


def host_version() -> str:
    """ComfyUI's version, or "unknown" where it states none."""
    try:
        import comfyui_version
    except ImportError:
        return "unknown"
    return str(getattr(comfyui_version, "__version__", "unknown"))


def too_old(version: str) -> str:
    """Why a ComfyUI version does not do; empty if it does, or if it cannot be read (a fork: its API decides)."""
    release = release_numbers(version)
    if not release or release >= release_numbers(OLDEST_HOST):
        return ""
    return f"this is ComfyUI {version}, and ComfyUI {OLDEST_HOST} or newer is needed. Update ComfyUI."


def release_numbers(version: str) -> tuple[int, ...]:
    """(0, 30, 1) of "0.30.1", "v0.30.1-4-g1a2b3c" or "0.30.1rc2"; empty if there is no number at the start."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(map(int, found[1].split("."))) if found else ()


def lacking_api(io: Any) -> str:
    """What comfy_api.latest.io lacks of the API that the nodes use; empty if nothing."""
    schema = getattr(io, "Schema", None)
    fields = {field.name for field in dataclasses.fields(schema)} if dataclasses.is_dataclass(schema) else set()
    if missing := sorted(NEEDED_SCHEMA_FIELDS - fields):
        return f"this ComfyUI's node API has no Schema.{', Schema.'.join(missing)}. Update ComfyUI to {OLDEST_HOST} or newer."
    return ""
