"""Runs ComfyUI workflow files (API format) with this pack's nodes, without ComfyUI: `python -m headless --help`."""
