"""Mask recipes that people use, each named after where it comes from. White = learn."""
from __future__ import annotations

from .operations import Floor, Gamma
from .recipe import MaskRecipe

PRESETS: dict[str, MaskRecipe] = {
    "as drawn": MaskRecipe(),
    "character (blissful-tuner guide)": MaskRecipe((Gamma(0.7), Floor(0.05))),
    "character + prior (blissful-tuner guide)": MaskRecipe((Gamma(0.7),)),
    "face focus (blissful-tuner guide)": MaskRecipe((Gamma(1.5), Floor(0.02))),
    "style / clothes (blissful-tuner guide)": MaskRecipe((Gamma(0.5), Floor(0.1))),
    "OneTrainer default": MaskRecipe((Floor(0.1, "clamp"),)),
    "ai-toolkit template": MaskRecipe((Floor(0.1),)),
}
PRESET_HELP = "White = learn.\n" + "\n".join(f"{name}: {recipe.describe()}" for name, recipe in PRESETS.items())
