"""Which of ComfyUI's models are proven: what the tests train, save, load and compare with finite differences, and what has no backward."""
from __future__ import annotations

from comfy.model_patcher import ModelPatcher

# Class names in comfy.model_base of the models in tests/host/tiny.py. Klein is Flux2 and Wan 2.2 14B is WAN21.
PROVEN = {
    "AuraFlow", "BaseModel", "Chroma", "ChromaRadiance", "Flux", "Flux2", "HunyuanImage21", "HunyuanVideo", "HunyuanVideo15", "Krea2",
    "Lumina2", "Omnigen2", "QwenImage", "SD3", "SDXL", "WAN21", "WAN22",
}
# Of these the tests see that a prediction depends on the reference pictures, and that gradients are right with them.
READ_REFERENCES = {"Flux", "Flux2", "Krea2", "Omnigen2", "QwenImage"}
# ComfyUI calls a fused kernel without a backward in these, also when it is told that something trains.
NO_BACKWARD = {"Anima", "CosmosPredict2"}


def unproven(patcher: ModelPatcher) -> str | None:
    """A warning for the user; None for a proven model."""
    name = type(patcher.model).__name__
    if name in PROVEN:
        return None
    return (f"{name} is not among the proven models ({', '.join(sorted(PROVEN - {'BaseModel'}))}, SD 1.5): its gradients were never "
            "compared with finite differences and its LoRA was never loaded back. Look at the first previews before a long run")


def reference_method(patcher: ModelPatcher) -> dict[str, str]:
    """What a conditioning with reference latents must say besides. Krea2 alone ignores them until a method is named; this is the one
    of ComfyUI's own workflow for it. Others choose theirs by their weights, as they do in sampling.
    """
    unnamed = getattr(patcher.model.diffusion_model, "default_ref_method", "") is None
    return {"reference_latents_method": "index_timestep_zero"} if unnamed else {}


def require_backward(patcher: ModelPatcher) -> None:
    name = type(patcher.model).__name__
    if name in NO_BACKWARD:
        raise ValueError(f"{name} cannot be trained in this ComfyUI: it calls a fused kernel that has no backward pass "
                         "(rms_rope_split_half); choose another model")
