"""What survives: checkpoints that are whole or not there at all."""
