"""Class-conditional PixelCNN++: the model and everything that one trial needs."""
