"""What is proven before training: shapes, metrics, models that fit each other."""
