"""Regions of a picture, found by segmentation models. No ComfyUI in here; white = learn."""
