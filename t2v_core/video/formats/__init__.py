"""What kinds of file a video can become, and what may be asked of each."""
