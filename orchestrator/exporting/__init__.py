"""What is handed in: predictions and samples, the model card, drawing images with exported weights."""
