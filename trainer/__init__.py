"""Masked-loss LoRA training on torch and peft alone. Shape suffixes: B batch, C channels, H and W latent grid; video adds T."""
