"""Does the model draw what it is asked for? Fixed prompts, detectors that know the renderer, tables and pictures."""
