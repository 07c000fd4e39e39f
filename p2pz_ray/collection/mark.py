"""The mark by which an edited picture says that it is one, as many places ask for by law.

XMP with IPTC's DigitalSourceType, which picture libraries, search engines and sites read.
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from p2pz_ray.collection.failure import shown

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC's word for a picture of which a trained model made a part."""


def xmp(model: str, version: str, edit: str, words: str | None = None) -> bytes:
    """An XMP packet. model: what edited the picture, in which version of this package; edit: its name in the run;
    words: what it turns into what."""
    attributes = {
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": f"pix2pix-zero with {model}",
        "Iptc4xmpExt:AISystemVersionUsed": f"p2pz_ray {version}",
        "Iptc4xmpExt:AIPromptInformation": edit if words is None else f"{edit}: {words}",
        "xmp:CreatorTool": f"p2pz_ray {version}",
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
