"""TLS as each driver is told of it; `ca` is the file of the authority's certificate, None for plaintext."""

import ssl


def libpq_tls(ca):
    """Keywords of a connection by libpq."""
    return {"sslmode": "verify-full", "sslrootcert": ca} if ca else {"sslmode": "disable"}


def asyncpg_tls(ca):
    """What asyncpg calls `ssl`."""
    return ssl.create_default_context(cafile=ca) if ca else False
