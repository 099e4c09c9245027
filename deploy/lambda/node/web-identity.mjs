// In place of a password: a token of the function's own role, from AWS's security token service. Its account has outbound identity federation enabled, its role may
// sts:GetWebIdentityToken, and pgweir takes such tokens from that role (auth.tokens, users.NAME.token_subjects).
import { GetWebIdentityTokenCommand, STSClient } from "@aws-sdk/client-sts";

// The service's regional endpoint: the global one has no such tokens.
const sts = new STSClient({ region: process.env.AWS_REGION });

/** For `new pg.Client({ host, user, database, ssl, password: webIdentity })`: asked for at each login, and good for a minute. */
export async function webIdentity() {
  const wanted = { Audience: [process.env.PGWEIR_AUDIENCE ?? "pgweir"], SigningAlgorithm: "ES384", DurationSeconds: 60 };
  return (await sts.send(new GetWebIdentityTokenCommand(wanted))).WebIdentityToken;
}
