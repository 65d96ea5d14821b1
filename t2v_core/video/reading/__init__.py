"""A video file in, frames and sound out; what is in a file. Files come from strangers."""
