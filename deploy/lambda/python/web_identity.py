"""In place of a password: a token of the function's own role, from AWS's security token service. Its account has outbound identity federation enabled, its role may
sts:GetWebIdentityToken, and pgweir takes such tokens from that role (auth.tokens, users.NAME.token_subjects)."""

import os

import boto3

# The service's regional endpoint: the global one has no such tokens.
sts = boto3.client("sts", region_name=os.environ["AWS_REGION"])


def web_identity():
    """For psycopg.connect(host=.., user=.., dbname=.., sslmode="verify-full", password=web_identity()): good for a minute."""
    audience = os.environ.get("PGWEIR_AUDIENCE", "pgweir")
    return sts.get_web_identity_token(Audience=[audience], SigningAlgorithm="ES384", DurationSeconds=60)["WebIdentityToken"]
