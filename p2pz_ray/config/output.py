"""How edited pictures are encoded, marked and signed."""

from typing import Annotated, Literal

from pydantic import Field

from p2pz_ray.config.section import Section, Text


class CredentialsConfig(Section):
    """The key that edited pictures are signed with, as C2PA's content credentials; its files lie on every machine."""

    certificates: Text  # PEM: the signer's certificate and those above it
    key: Text  # PEM: its private key
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    timestamps: Text | None = None  # URL of a time stamp authority, asked once per picture


class OutputFormatConfig(Section):
    """How edited images are encoded."""

    format: Literal["png", "jpeg", "webp"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = 95  # of jpeg and webp
    masks: bool = False  # whether pairs have a column `mask` with the area that each edit was confined to
    conditions: bool = False  # … columns `condition_1`, … with the pictures that the conditions showed to the UNet
    mark: Literal["xmp", "none"] = "xmp"  # whether an edited picture's metadata say that it was edited, and how
    c2pa: CredentialsConfig | None = None  # signs each edited picture
