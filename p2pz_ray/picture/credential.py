"""Content credentials (C2PA): a signed record, in an edited picture, of its source and of the model that edited it.

Any C2PA reader can check who signed the picture and that it has not been changed since.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from p2pz_ray.errors import ConfigError, first_line
from p2pz_ray.picture.codec import encode
from p2pz_ray.picture.mark import SOURCE_TYPE, Provenance
from p2pz_ray.storage.failure import shown

_PLAIN = {"builder": {"thumbnail": {"enabled": False}}}  # a thumbnail can be larger than the picture


class Signer:
    """Signs edited pictures with a key.

    certificates: a PEM file with the signer's certificate chain. key: a PEM file with its private key.
    timestamps: URL of a time-stamping authority, asked for each picture; None leaves the time out.

    Raises ConfigError if the package is missing, or certificate and key can't sign.
    """

    def __init__(self, certificates: str, key: str, algorithm: str, timestamps: str | None = None) -> None:
        try:
            import c2pa
        except ImportError as error:
            raise ConfigError("output_format.c2pa needs a package: pip install 'p2pz_ray[c2pa]'.") from error
        self._c2pa = c2pa
        pem = [_read(name, file) for name, file in (("certificates", certificates), ("key", key))]
        try:
            address = None if timestamps is None else timestamps.encode()
            self._signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, *pem, address))
            self._context = c2pa.Context(c2pa.Settings.from_dict(_PLAIN))
            blank = encode(np.zeros((8, 8, 3), np.uint8))
            self.signed(blank, blank, "png", Provenance("no model", "0", "trial"))
        except c2pa.C2paError as error:
            raise ConfigError(
                f"output_format.c2pa can't sign with {certificates}, {key} and {algorithm} ({first_line(error)}): "
                "give a certificate for signing documents, the chain above it, and its own key."
            ) from error

    def signed(self, edited: bytes, source: bytes, format: str, provenance: Provenance) -> bytes:
        """The edited picture with its record, which includes a digest of the source. Both are encoded as png, jpeg or
        webp."""
        agent = {"name": "p2pz_ray", "version": provenance.version}
        action: dict[str, Any] = {
            "action": "c2pa.edited",
            "softwareAgent": agent,
            "digitalSourceType": SOURCE_TYPE,
            "description": provenance.asked,
            "parameters": {"model": shown(provenance.model)},
        }
        record = {
            "claim_generator_info": [agent],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        builder = self._c2pa.Builder(json.dumps(record), self._context)
        builder.set_intent(self._c2pa.C2paBuilderIntent.EDIT)
        parent = json.dumps({"title": "source", "relationship": "parentOf"})
        builder.add_ingredient(parent, f"image/{format}", io.BytesIO(source))
        made = io.BytesIO()
        builder.sign(self._signer, f"image/{format}", io.BytesIO(edited), made)
        return made.getvalue()


def _read(name: str, file: str) -> bytes:
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(
            f"output_format.c2pa.{name} {file} can't be read ({first_line(error)}): it must lie on every machine."
        ) from error
