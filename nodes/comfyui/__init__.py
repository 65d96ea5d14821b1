"""The pack inside ComfyUI: what the nodes' sockets carry there are ComfyUI's own objects. Nothing else imports it.

Imported by the first node that runs in ComfyUI, never with the pack.
"""
