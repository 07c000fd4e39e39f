"""The mark in an edited picture that says that it was edited by a model, as the law requires in many places.

It is XMP metadata with IPTC's DigitalSourceType, which picture libraries, search engines and websites read.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from p2pz_ray.storage.failure import shown

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's term for a picture that was made in part by a trained model."""


@dataclass(frozen=True)
class Provenance:
    """Where an edited picture comes from. model: that edited it; version: of this package; edit: its name in the run;
    words: source and target."""

    model: str
    version: str
    edit: str
    words: str | None = None

    @property
    def asked(self) -> str:
        """The edit, and its words if it has any."""
        return shown(self.edit if self.words is None else f"{self.edit}: {self.words}")


def xmp(provenance: Provenance) -> bytes:
    """An XMP packet."""
    software = f"p2pz_ray {provenance.version}"
    attributes = {
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": f"pix2pix-zero with {provenance.model}",
        "Iptc4xmpExt:AISystemVersionUsed": software,
        "Iptc4xmpExt:AIPromptInformation": provenance.asked,
        "xmp:CreatorTool": software,
    }
    lines = "\n".join(f"   {name}={quoteattr(shown(value))}" for name, value in attributes.items())
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
   xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   xmlns:xmp="http://ns.adobe.com/xap/1.0/"
{lines}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>""".encode()
