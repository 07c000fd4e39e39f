"""A picture: decoded safely, encoded, marked and signed."""
