"""Mask recipes, mask weights on the latent grid and their previews. White = learn. Knows nothing of ComfyUI."""
