"""What dev.py does: set up an environment and a ComfyUI, start it, run the demo, the tests and the benchmarks.

Standard library only: this code runs before anything is installed.
"""
