"""Runs ComfyUI workflow files in the API format with this pack's nodes, without ComfyUI: `python -m headless --help`."""
