"""Better latents for one image (--effort), and the model that meets a target."""
