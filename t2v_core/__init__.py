"""The library: text-to-video with 3D UNets. It knows tensors and files, and no host."""
