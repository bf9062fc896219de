"""Networks as lists of layers: DCGAN and WGAN, dense and maxout GANs, and MMD-GAN."""
