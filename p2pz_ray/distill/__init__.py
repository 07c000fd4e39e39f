"""From pairs to a student: the training of a GAN, on one worker or many."""
