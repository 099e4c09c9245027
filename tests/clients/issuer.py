"""An issuer of tokens (JWT), as AWS's security token service is one for the roles of an account."""

import base64
import json
import subprocess
import time

ISSUER = "https://issuer.example"
AUDIENCE = "pgweir"
ROLE = "arn:aws:iam::111122223333:role/matrix"


def publish(folder):
    """Makes a key, and `jwks.json` with what tokens are checked with."""
    openssl(folder, "genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "issuer.key")
    modulus = openssl(folder, "rsa", "-in", "issuer.key", "-noout", "-modulus").decode().strip().partition("=")[2]
    key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "matrix", "n": base64url(bytes.fromhex(modulus)), "e": "AQAB"}
    (folder / "jwks.json").write_text(json.dumps({"keys": [key]}))


def token(folder):
    """A token of the role, good for ten minutes."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": ROLE, "iat": now, "exp": now + 600, "jti": "matrix"}
    parts = ({"alg": "RS256", "typ": "JWT", "kid": "matrix"}, claims)
    text = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    return f"{text}.{base64url(openssl(folder, 'dgst', '-sha256', '-sign', 'issuer.key', given=text.encode()))}"


def base64url(octets):
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def openssl(folder, *words, given=None):
    return subprocess.run(["openssl", *words], cwd=folder, input=given, check=True, capture_output=True).stdout
