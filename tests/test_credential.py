"""Content credentials: what a signed picture says, that it can be checked, and what can't sign."""

import datetime
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tiny_job import tiny_settings, translated

from p2pz_ray.errors import ConfigError
from p2pz_ray.picture.codec import encode
from p2pz_ray.picture.credential import Signer
from p2pz_ray.picture.mark import SOURCE_TYPE, Provenance

c2pa = pytest.importorskip("c2pa")
FROM = Provenance("mini", "1.2", "cat2dog", "cat → dog")


def signing_files(folder: Path, name: str) -> dict[str, str]:
    """A new authority's certificate for `name`, and its key, as the configuration names them."""
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    start = datetime.datetime(2026, 1, 1)

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey, is_authority: bool) -> bytes:
        names = [
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n), x509.NameAttribute(NameOID.ORGANIZATION_NAME, n)])
            for n in (subject, "authority")
        ]
        signs, issues = not is_authority, is_authority
        usage = x509.KeyUsage(signs, False, False, False, False, issues, issues, False, False)
        made = (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=36500))
            .add_extension(x509.BasicConstraints(is_authority, None), True)
            .add_extension(usage, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False)
        )
        if not is_authority:
            made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        return made.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM)

    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(certificate(name, own, False) + certificate("authority", authority, True))
    key.write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {"certificates": str(chain), "key": str(key)}


def read(picture: bytes, format: str = "png") -> dict[str, Any]:
    """What a C2PA reader finds."""
    with c2pa.Reader(f"image/{format}", io.BytesIO(picture)) as reader:
        found = json.loads(reader.json())
    return {"state": found["validation_state"]} | found["manifests"][found["active_manifest"]]


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_signed_picture_says_what_it_is_and_shows_a_change(tmp_path: Path, format: Any) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    source, edited = (encode(pixels, format) for pixels in pictures)
    signer = Signer(**signing_files(tmp_path, "studio"), algorithm="es256")
    signed = signer.signed(edited, source, format, FROM)
    found = read(signed, format)
    assert found["state"] == "Valid"
    assert found["signature_info"]["common_name"] == "studio"
    assert [ingredient["relationship"] for ingredient in found["ingredients"]] == ["parentOf"]
    opened, made = found["assertions"][0]["data"]["actions"]
    assert opened["action"] == "c2pa.opened"
    assert (made["action"], made["digitalSourceType"]) == ("c2pa.edited", SOURCE_TYPE)
    assert made["description"] == "cat2dog: cat → dog"
    assert made["softwareAgent"] == {"name": "p2pz_ray", "version": "1.2"}
    assert len(signed) < len(edited) + 20_000
    at = signed.index(edited[-90:-60])  # in the picture's own data
    assert read(signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :], format)["state"] == "Invalid"


def test_what_cannot_sign_is_said(tmp_path: Path) -> None:
    one, other = signing_files(tmp_path, "one"), signing_files(tmp_path, "other")
    for files, algorithm, sentence in (
        (one | {"key": str(tmp_path / "none.key")}, "es256", r"c2pa\.key .*none\.key can't be read.*every machine"),
        (one | {"certificates": one["key"]}, "es256", "can't sign with .*give a certificate for signing"),
        (one | {"key": other["key"]}, "es256", "can't sign with .*other.key"),
        (one, "ps256", "can't sign with .*ps256"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Signer(**files, algorithm=algorithm)


def test_a_run_signs_its_edited_pictures_alone(tmp_path: Path, tiny_model: Path) -> None:
    settings = tiny_settings(tmp_path, tiny_model)
    settings["output_format"] = {"c2pa": {"certificates": "missing.pem", "key": "missing.key"}}
    with pytest.raises(ConfigError, match=r"missing\.pem can't be read"):
        translated(settings)
    assert not (tmp_path / "run").exists()
    settings["output_format"] = {"c2pa": signing_files(tmp_path, "studio")}
    for (_, edit), row in translated(settings).items():
        found = read(row["edited_image"]["bytes"])
        assert found["state"] == "Valid"
        assert found["assertions"][0]["data"]["actions"][1]["description"].startswith(edit)
        assert b"c2pa" not in row["source_image"]["bytes"]
