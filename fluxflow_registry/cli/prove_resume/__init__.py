"""`--prove-resume`: a recipe run uninterrupted and run with kills, compared bit by bit."""
