"""What the models of a run answer an attacker: asked once, kept, and no more of it shown than is granted."""
