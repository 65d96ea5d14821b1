"""The training clips: what they show, how they are drawn, what is said of them."""
