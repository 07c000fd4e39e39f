"""Words for the method: sentence banks for directions, and captions for images."""
