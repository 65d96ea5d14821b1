"""Frames in, a video file out: never half-written, never in the place of another."""
