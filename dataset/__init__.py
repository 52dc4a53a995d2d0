"""A folder of pictures as training examples: pairing, geometry, loading, cache. Knows nothing of ComfyUI."""
