"""The spellings in which a secret could hide."""
import base64
import json
import re
import urllib.parse


def base64_forms(raw):
    """As it stands in the base64 of something longer, whatever comes before and behind it: the digits that it alone decides."""
    for before in range(3):
        digits = base64.b64encode(b"\0" * before + raw).decode()
        first = (before * 8 + 5) // 6
        last = (before + len(raw)) * 8 // 6
        yield digits[first:last]


def spellings(secret):
    raw = secret.encode()
    escaped = json.dumps(secret)[1:-1]
    found = {secret, escaped, escaped.replace("/", "\\/"), urllib.parse.quote(secret, safe=""), urllib.parse.quote(secret, safe="/"),
             urllib.parse.quote_plus(secret), raw.hex(), raw.hex().upper()}
    found |= {re.sub("%..", lambda match: match[0].lower(), form) for form in found}
    for digits in base64_forms(raw):
        found |= {digits, digits.replace("+", "-").replace("/", "_")}
    return {form.encode() for form in found}


def distortions(secret):
    """What a server that knows a secret can make of it, beyond how it is spelled, and find read by somebody."""
    raw = secret.encode()
    once = "".join(f"%{byte:02X}" for byte in raw)
    found = {secret[::-1], secret.swapcase(), secret.lower(), secret.upper(), once, once.lower(), once.replace("%", "%25"),
             raw[::-1].hex(), base64.b64encode(raw[::-1]).decode().rstrip("="), "".join(f"&#{byte};" for byte in raw)}
    return {form.encode() for form in found} | spellings(secret)
