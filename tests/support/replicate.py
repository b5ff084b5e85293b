"""Replicate's weights: a model's address sends on to a delivery host that has the tar."""

from dataclasses import dataclass

from .faults import Redirect, RefuseAuthorization
from .resources import Resource
from .server import Server


@dataclass
class Replicate:
    """The site and the host that delivers; both have to be running."""

    site: Server
    delivery: Server

    @property
    def endpoint(self) -> str:
        return self.site.url("")

    def add(self, model: str, tar: bytes, *, version: str = "") -> None:
        """Have `tar` for OWNER/NAME, or for one version of it."""
        part = f"/versions/{version}" if version else ""
        stored = f"/pbxt/{model.replace('/', '-')}{version}/trained_model.tar"
        url = self.delivery.add(stored, Resource(tar, faults=[RefuseAuthorization()]))
        self.site.add(f"/{model}{part}/_weights", Resource(faults=[Redirect(url)]))
