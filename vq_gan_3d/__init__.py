"""Stage 1: the 3D VQ-GAN that turns CT into latents, its training, and the frozen codec that stage 2 uses."""
