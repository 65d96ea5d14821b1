"""The pack inside ComfyUI: what the nodes' sockets carry there are ComfyUI's own objects. Nothing else imports it.

Imported where ComfyUI first lists the models or runs a node, never with the pack.
"""
