"""How the bundled model was made: clips drawn by a program, and the trainers of its three networks."""
