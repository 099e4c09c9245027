//! Every setting of PgBouncer's `[pgbouncer]` section (1.25), and what becomes of it here.

use std::fmt::Write as _;

/// What becomes of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has a counterpart, at this path.
    Taken(&'static str),
    /// It is not needed, and why.
    NotNeeded(&'static str),
    /// There is no counterpart, and what to do.
    NoCounterpart(&'static str),
}

use Fate::{NoCounterpart, NotNeeded, Taken};

const LOGS: &str = "logs go to standard error; whoever runs the process keeps them";
const DNS: &str = "names are looked up by the system, anew for each connection";
const CIPHERS: &str = "TLS 1.2 and 1.3 with rustls' cipher suites, all of them with forward secrecy";
const KERNEL: &str = "left to the kernel";
const LDAP: &str = "there is no LDAP: use SCRAM, client certificates or auth_query";
const PEERS: &str = "a request to cancel must reach the process whose client it is for: several behind one address are not joined";

/// Every setting, those with the same fate together.
const SETTINGS: &[(&[&str], Fate)] = &[
    (
        &["max_user_connections", "max_user_client_connections", "max_db_client_connections"],
        NoCounterpart(
            "a limit for each user or database at once: give those that need one a tenant, with max_server_connections and max_clients",
        ),
    ),
    (&["listen_addr", "listen_port", "unix_socket_dir"], Taken("listen.postgres")),
    (&["unix_socket_mode", "unix_socket_group"], NoCounterpart("sockets get the mode that the umask leaves; restrict the folder")),
    (&["auth_type"], Taken("auth.method")),
    (&["auth_file"], Taken("users")),
    (&["auth_hba_file"], Taken("auth.method, auth.trust_networks")),
    (&["auth_ident_file"], NoCounterpart("name the certificates that log in as a user with users.NAME.certificate_names")),
    (&["auth_query", "auth_user", "auth_dbname"], Taken("upstreams.NAME.auth_query, auth_user, auth_dbname")),
    (&["auth_ldap_options", "auth_ldap_parameter"], NoCounterpart(LDAP)),
    (&["auth_pam_confdir"], NoCounterpart("there is no PAM: use SCRAM, client certificates or auth_query")),
    (&["admin_users"], Taken("console.admin_users")),
    (&["stats_users"], Taken("console.stats_users")),
    (&["pool_mode"], Taken("databases.NAME.pool_mode")),
    (&["default_pool_size", "max_db_connections"], Taken("upstreams.NAME.max_connections, tenants")),
    (&["min_pool_size"], Taken("upstreams.NAME.min_idle")),
    (&["reserve_pool_size"], Taken("upstreams.NAME.max_connections")),
    (&["reserve_pool_timeout"], NotNeeded("the budget is there at once; reserved_server_connections keeps a part of it for a tenant")),
    (&["max_client_conn"], Taken("clients.max_clients")),
    (
        &["max_prepared_statements"],
        NotNeeded("prepared statements always work; upstreams.NAME.prepared_statements bounds what they take on a server"),
    ),
    (
        &["server_reset_query", "server_reset_query_always"],
        NotNeeded("what a client leaves on a session is known, and undone before another has it"),
    ),
    (&["server_check_query"], NotNeeded("an idle connection is checked by an empty query")),
    (&["server_check_delay"], Taken("upstreams.NAME.server_check_delay")),
    (&["server_lifetime"], Taken("upstreams.NAME.server_lifetime")),
    (&["server_idle_timeout"], Taken("upstreams.NAME.server_idle_timeout")),
    (&["server_connect_timeout"], Taken("upstreams.NAME.server_connect_timeout")),
    (
        &["server_login_retry"],
        NotNeeded("a server that does not answer is tried again after 50 ms, then less often, twice a second at least"),
    ),
    (&["server_fast_close", "server_round_robin"], NotNeeded("the connection that was used last is used next")),
    (&["client_login_timeout"], Taken("clients.login_timeout")),
    (&["client_idle_timeout"], Taken("defaults.client_idle_timeout")),
    (&["query_timeout"], Taken("defaults.query_timeout")),
    (&["query_wait_timeout"], Taken("defaults.queue_timeout")),
    (&["transaction_timeout"], Taken("defaults.transaction_timeout")),
    (&["idle_transaction_timeout"], Taken("defaults.idle_transaction_timeout")),
    (&["cancel_wait_timeout"], NotNeeded("cancel requests wait for no server connection")),
    (&["query_wait_notify", "login_notify_message"], NoCounterpart("clients are told nothing that PostgreSQL would not tell them")),
    (&["suspend_timeout"], NotNeeded("there is no SUSPEND")),
    (&["autodb_idle_timeout", "pool_idle_timeout"], NotNeeded("a pool without connections costs next to nothing and is kept")),
    (&["client_tls_sslmode"], Taken("tls.client.mode")),
    (&["client_tls_key_file"], Taken("tls.client.key")),
    (&["client_tls_cert_file"], Taken("tls.client.cert")),
    (&["client_tls_ca_file"], Taken("tls.client.ca")),
    (&["server_tls_sslmode"], Taken("tls.server.mode")),
    (&["server_tls_ca_file"], Taken("tls.server.ca")),
    (&["server_tls_key_file"], Taken("tls.server.key")),
    (&["server_tls_cert_file"], Taken("tls.server.cert")),
    (
        &[
            "client_tls_protocols",
            "client_tls_ciphers",
            "client_tls13_ciphers",
            "client_tls_ecdhcurve",
            "client_tls_dheparams",
            "server_tls_protocols",
            "server_tls_ciphers",
            "server_tls13_ciphers",
        ],
        NotNeeded(CIPHERS),
    ),
    (&["ignore_startup_parameters"], NotNeeded("startup parameters are applied, whatever they are")),
    (&["track_extra_parameters"], NotNeeded("all settings follow their client")),
    (
        &["application_name_add_host"],
        NoCounterpart("application_name passes as it is; the log and SHOW CLIENTS know each client's address"),
    ),
    (&["disable_pqexec"], NoCounterpart("the simple protocol cannot be switched off")),
    (&["scram_iterations"], NotNeeded("verifiers are taken as they are")),
    (&["tcp_keepidle", "tcp_keepintvl", "tcp_keepcnt"], Taken("tcp.server.keepalive_idle, keepalive_interval, keepalive_count")),
    (&["tcp_user_timeout"], Taken("tcp.server.user_timeout")),
    (&["tcp_keepalive"], NotNeeded("keepalive is on toward servers, and toward clients while they have work under way")),
    (&["tcp_defer_accept", "tcp_socket_buffer", "listen_backlog"], NotNeeded(KERNEL)),
    (&["so_reuseport"], NotNeeded("each worker listens by itself (process.workers)")),
    (&["pkt_buf", "sbuf_loopcnt", "max_packet_size"], NotNeeded("messages pass through in pieces; an idle client has no buffer")),
    (&["peer_id"], NoCounterpart(PEERS)),
    (&["logfile", "pidfile", "syslog", "syslog_ident", "syslog_facility"], NotNeeded(LOGS)),
    (
        &["log_connections", "log_disconnections", "log_pooler_errors", "log_stats", "stats_period"],
        NotNeeded("counted by /metrics; refusals at login and failures are always logged"),
    ),
    (&["verbose"], NotNeeded("log.level")),
    (&["dns_max_ttl", "dns_nxdomain_ttl", "dns_zone_check_period", "resolv_conf"], NotNeeded(DNS)),
    (&["user"], NotNeeded("whoever starts the process says as whom it runs")),
    (&["conffile", "service_name", "job_name"], NotNeeded("names of the process")),
];

/// What becomes of the setting of this name; none where PgBouncer has no such setting.
pub(super) fn fate(name: &str) -> Option<Fate> {
    SETTINGS.iter().find(|(names, _)| names.contains(&name)).map(|(_, fate)| *fate)
}

/// The reference page of all settings, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(
        "# PgBouncer's settings here\n\nGenerated from the table that `pgweir import pgbouncer` goes by; do not edit. Settings of PgBouncer 1.25's section `[pgbouncer]`, and what becomes of each.\n\n\
         | PgBouncer | here | |\n|---|---|---|\n",
    );
    for (names, fate) in SETTINGS {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let (what, words) = match fate {
            Taken(path) => ("taken over", format!("`{path}`")),
            NotNeeded(why) => ("not needed", (*why).to_owned()),
            NoCounterpart(advice) => ("no counterpart", (*advice).to_owned()),
        };
        let _ = writeln!(page, "| {} | {what} | {words} |", names.join(", "));
    }
    page
}
