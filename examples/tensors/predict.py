"""An image through a tiny autoencoder, whose weights go from WEIGHTS_URL straight into the module.

They are in the cache as well when `load_into` returns, so that the next start reads them there.
"""

import os
import tempfile

import torch
from cog import BasePredictor, Input, Path
from diffusers import AutoencoderTiny
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from pgetpy import tensors

WEIGHTS = "hf://madebyollin/taesd/diffusion_pytorch_model.safetensors"


class Predictor(BasePredictor):
    def setup(self) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        # On the meta device a module has shapes and no memory, so that nothing is allocated twice.
        with torch.device("meta"):
            self.model = AutoencoderTiny()
        weights = os.environ.get("WEIGHTS_URL", WEIGHTS)
        tensors.load_into(self.model, weights, device=self.device)
        self.model.eval()
        self.processor = VaeImageProcessor(vae_scale_factor=8)
        self.image = Path(tempfile.mkdtemp()) / "image.png"

    @torch.inference_mode()
    def predict(self, image: Path = Input(description="What is encoded and decoded")) -> Path:
        with Image.open(image) as given:
            pixels = self.processor.preprocess(given.convert("RGB")).to(self.device)
        decoded = self.model(pixels).sample
        self.processor.postprocess(decoded.cpu())[0].save(self.image)
        return self.image
