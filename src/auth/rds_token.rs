//! What Amazon RDS and Aurora take in place of a password (IAM database authentication): a presigned URL without its scheme.
//!
//! Nobody is asked for it: it is computed from the keys of an AWS role that may `rds-db:connect`. It is good for beginning a session within a quarter of an hour.
//! Source: the tokens of boto3 and of the AWS SDKs, which are the same to the byte.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::sigv4::{self, ALGORITHM, Scope, sha256_hex, time_of};

/// For so many seconds a token is good.
const GOOD_FOR: u32 = 900;

/// What is not escaped in the query of a request that is signed.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The keys of an AWS role or user.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsKeys {
    /// Its name; not a secret.
    pub access_key_id: String,
    /// What signatures are made with.
    pub secret_access_key: Zeroizing<String>,
    /// What goes with keys that end.
    pub session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKeys").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// What a token opens.
#[derive(Debug, Clone, Copy)]
pub struct RdsLogin<'a> {
    /// The host, as RDS names it: not another name for it.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The role in the database.
    pub user: &'a str,
    /// The region where the database is.
    pub region: &'a str,
}

impl RdsLogin<'_> {
    /// The token for it, signed at so many seconds since 1970.
    pub fn token(&self, keys: &AwsKeys, at: i64) -> Zeroizing<String> {
        let at = time_of(at);
        let Self { host, port, user, region } = self;
        let scope = Scope { date: at.get(..8).unwrap_or_default(), region, service: "rds-db" };
        let escaped = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
        let expires = GOOD_FOR.to_string();
        let credential = format!("{}/{scope}", keys.access_key_id);
        let mut query = vec![
            ("Action", "connect"),
            ("DBUser", user),
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &at),
            ("X-Amz-Expires", &expires),
            ("X-Amz-SignedHeaders", "host"),
        ];
        if let Some(token) = &keys.session_token {
            query.push(("X-Amz-Security-Token", token));
        }
        let written = |query: &[(&str, &str)]| {
            let parts: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
            Zeroizing::new(parts.join("&"))
        };
        let url = written(&query);
        query.sort_unstable();
        let canonical = format!("GET\n/\n{}\nhost:{host}:{port}\n\nhost\n{}", *written(&query), sha256_hex(b""));
        let signature = scope.sign(&keys.secret_access_key, &at, &Zeroizing::new(canonical));
        Zeroizing::new(format!("{host}:{port}/?{}&X-Amz-Signature={signature}", *url))
    }
}

/// The region that a host name of RDS says: `NAME.ID.REGION.rds.amazonaws.com`.
pub fn region_of(host: &str) -> Option<&str> {
    let (before, behind) = host.trim_end_matches('.').rsplit_once(".rds.")?;
    let region = before.rsplit('.').next().filter(|region| !region.is_empty())?;
    behind.starts_with("amazonaws.com").then_some(region)
}

/// The seconds since 1970 of a time such as `2026-11-28T10:15:00Z`, as AWS says when keys end.
pub fn end_of_keys(text: &str) -> Option<i64> {
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole).trim_end_matches('Z');
    let bare: String = whole.chars().filter(|letter| !matches!(letter, '-' | ':')).collect();
    sigv4::seconds_of(&format!("{bare}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-29 09:30:15.
    const AT: i64 = 1_795_944_615;

    fn keys(id: &str, secret: &str, token: Option<&str>) -> AwsKeys {
        let session_token = token.map(|token| Zeroizing::new(token.to_owned()));
        AwsKeys { access_key_id: id.to_owned(), secret_access_key: Zeroizing::new(secret.to_owned()), session_token }
    }

    #[test]
    fn tokens_are_those_of_boto3() {
        // From boto3 1.43.11, `generate_db_auth_token` with its clock stopped.
        let host = "writer.cluster-abc.eu-central-1.rds.amazonaws.com";
        let login = RdsLogin { host, port: 5432, user: "app", region: "eu-central-1" };
        let made = login.token(&keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None), AT);
        let signature = "5de8d5e751f4d9e826b31a8cccd3f9c1d32c08d3d78214448b7866fdbb3b897b";
        let credential = "AKIDEXAMPLE%2F20261129%2Feu-central-1%2Frds-db%2Faws4_request";
        assert_eq!(
            *made,
            format!(
                "{host}:5432/?Action=connect&DBUser=app&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}\
                 &X-Amz-Date=20261129T093015Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
            )
        );

        let token = "IQoJb3JpZ2luX2VjEXAMPLE//////////wEa+token=";
        let login = RdsLogin { host: "db.example.internal", port: 6543, user: "app user+é/=", region: "us-east-1" };
        let made = login.token(&keys("ASIAEXAMPLE", "sec/ret+key", Some(token)), AT);
        let signature = "453d87fbe3735a5edd031cadb305872e8bf919345698f75247d1c1f8638eff68";
        let credential = "ASIAEXAMPLE%2F20261129%2Fus-east-1%2Frds-db%2Faws4_request";
        let token = "IQoJb3JpZ2luX2VjEXAMPLE%2F%2F%2F%2F%2F%2F%2F%2F%2F%2FwEa%2Btoken%3D";
        assert_eq!(
            *made,
            format!(
                "db.example.internal:6543/?Action=connect&DBUser=app%20user%2B%C3%A9%2F%3D&X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential={credential}&X-Amz-Date=20261129T093015Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
                 &X-Amz-Security-Token={token}&X-Amz-Signature={signature}"
            )
        );
    }

    #[test]
    fn a_host_of_rds_says_its_region() {
        assert_eq!(region_of("writer.cluster-abc.eu-central-1.rds.amazonaws.com"), Some("eu-central-1"));
        assert_eq!(region_of("db.abc.cn-north-1.rds.amazonaws.com.cn."), Some("cn-north-1"));
        for host in ["db.internal", "db.rds.internal", "rds.amazonaws.com", ".rds.amazonaws.com", "10.0.0.7"] {
            assert_eq!(region_of(host), None, "{host}");
        }
    }

    #[test]
    fn the_end_of_keys_is_read_with_and_without_fractions() {
        assert_eq!(end_of_keys("2026-11-29T09:30:15Z"), Some(AT));
        assert_eq!(end_of_keys("2026-11-29T09:30:15.250Z"), Some(AT));
        assert_eq!(end_of_keys("tomorrow"), None);
    }

    #[test]
    fn keys_do_not_show_their_secrets() {
        let shown = format!("{:?}", keys("AKID", "hidden-secret", Some("hidden-token")));
        assert!(shown.contains("AKID") && !shown.contains("hidden"), "{shown}");
    }
}
