//! The importer on texts; `tests/import.rs` has PgBouncer's own files and a real PgBouncer.

use super::*;
use crate::config::{AuthMethod, PoolMode, parse_str};

fn none(_: &str) -> std::io::Result<String> {
    Err(std::io::ErrorKind::NotFound.into())
}

fn list(name: &str) -> std::io::Result<String> {
    match name {
        "users.txt" => Ok("\"app\" \"secret\"\n\"old\" \"md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n\"ops\" \"x\"".to_owned()),
        "hba" => {
            Ok("# who\nlocal all all md5\nhost all all 10.0.0.0/8 trust\nhost sales all 0.0.0.0/0 scram-sha-256\nhost all all ::/0 md5\n"
                .to_owned())
        }
        _ => none(name),
    }
}

fn config(text: &str) -> (crate::config::Config, Imported) {
    let imported = import("p.ini", text, &list);
    let loaded = parse_str(&imported.toml).unwrap_or_else(|mistakes| panic!("{}\n{}", mistakes[0], imported.toml));
    (loaded.config, imported)
}

#[test]
fn an_equivalent_configuration_comes_out() {
    let (config, imported) = config(
        "[databases]\napp = host=db port=5433 dbname=production pool_size=7\n[pgbouncer]\nlisten_addr = *\nlisten_port = 7000\n\
         unix_socket_dir =\nauth_file = users.txt\nadmin_users = ops, nobody\nquery_wait_timeout = 2.5\nmax_client_conn = 500\npool_mode = transaction\n\
         server_reset_query = DISCARD ALL\ndisable_pqexec = 1\nserver_idle_timeout = 30\n",
    );
    let main = &config.upstreams["main"];
    assert_eq!((main.max_connections, main.server_idle_timeout), (7, Some(std::time::Duration::from_secs(30))));
    let app = &config.databases["app"];
    assert_eq!((app.dbname.as_deref(), app.pool_mode), (Some("production"), PoolMode::Transaction));
    assert_eq!(config.auth.method, AuthMethod::Md5);
    assert_eq!(config.users.keys().collect::<Vec<_>>(), ["app", "old", "ops"]);
    assert_eq!(config.console.admin_users, ["ops"]);
    assert_eq!(config.clients.max_clients, 500);
    assert_eq!(config.tenants[0].limits.queue_timeout, Some(std::time::Duration::from_millis(2500)));
    assert_eq!(config.listen.postgres.len(), 1);
    for line in ["p.ini:12: server_reset_query: ", "p.ini:13: disable_pqexec: ", "p.ini:14: server_idle_timeout -> upstreams"] {
        assert!(imported.toml.contains(line), "{line} is not in\n{}", imported.toml);
    }
    assert!(imported.open.iter().any(|open| open.contains("`nobody`")), "{:?}", imported.open);
}

#[test]
fn databases_on_one_server_share_its_budget_and_keep_their_limits() {
    let (config, _) = config(
        "[databases]\na = host=db\nb = host=db pool_size=3 max_db_client_connections=9\n\"c d\" = host=/run/pg port=5433\n* = host=db\n[users]\n\
         app = max_user_connections=2\n[pgbouncer]\nauth_file = users.txt\ndefault_pool_size = 5\n",
    );
    assert_eq!(config.upstreams.keys().collect::<Vec<_>>(), ["db", "run_pg_5433"]);
    assert_eq!(config.upstreams["db"].max_connections, 5 + 3 + 5);
    let caps: Vec<(&str, u32, u32)> = config
        .tenants
        .iter()
        .map(|tenant| (tenant.name.as_str(), tenant.limits.max_server_connections, tenant.limits.max_clients))
        .collect();
    assert_eq!(caps, [("default", 0, 100), ("user-app", 2, 100), ("a", 5, 100), ("b", 3, 9)]);
    assert_eq!(config.databases["c d"].upstream, "run_pg_5433");
    assert_eq!(config.databases["a"].pool_mode, PoolMode::Session, "PgBouncer's default");
    assert!(config.any_database.is_some());
}

#[test]
fn an_hba_file_is_followed_as_far_as_it_goes() {
    let (config, imported) = config("[databases]\napp =\n[pgbouncer]\nauth_type = hba\nauth_hba_file = hba\nauth_file = users.txt\n");
    assert_eq!(config.auth.method, AuthMethod::Md5);
    assert_eq!(config.auth.trust_networks, ["10.0.0.0/8".parse().unwrap()]);
    assert!(imported.open.iter().any(|open| open.contains("host sales all")), "{:?}", imported.open);
}

#[test]
fn what_is_not_understood_is_told_and_nothing_is_left_out() {
    let text =
        "[databases]\nx = host=a unknown=1 oops\n[pgbouncer]\nlisten_port = many\nno_such_setting = 1\nstray\nquery_timeout = soon\n";
    let imported = import("p.ini", text, &none);
    for word in ["`unknown`", "`oops`", "listen_port", "no_such_setting", "stray", "query_timeout"] {
        assert!(imported.open.iter().any(|open| open.contains(word)), "{word} is not in {:?}", imported.open);
    }
    assert!(imported.toml.parse::<toml::Table>().is_ok(), "{}", imported.toml);
}

#[test]
fn a_line_of_the_other_file_cannot_end_a_comment_or_a_text() {
    let text = "[databases]\n\"a\\\"b]\" = host='x\"y' dbname='q\\'\n[pgbouncer]\nauth_query = SELECT '\\\r'\nauth_user = \"\u{1}\nevil\r[x] = \u{2}\n";
    let imported = import("p\u{3}.ini", text, &none);
    let table: toml::Table = imported.toml.parse().unwrap_or_else(|error| panic!("{error}\n{}", imported.toml));
    assert!(!table.contains_key("x"));
}
