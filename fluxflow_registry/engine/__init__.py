"""What runs: the loop, the values of a batch, the way gradients go back, the data, the run itself."""
