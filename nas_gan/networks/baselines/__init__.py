"""Networks as lists of layers: DCGAN and WGAN, dense and maxout GANs, the MMD-GAN nets."""
