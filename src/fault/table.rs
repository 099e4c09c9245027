//! The table: label, SQLSTATE, severity and words of every fault, in the order of their numbers.

use std::fmt::Write as _;

use crate::wire::sqlstate;

/// What a fault is, apart from its particulars.
pub(super) struct Entry {
    pub(super) label: &'static str,
    pub(super) sqlstate: &'static str,
    /// Whether it ends the session wherever it happens; else only a login that has not succeeded yet.
    pub(super) fatal: bool,
    what: &'static str,
    remedy: &'static str,
}

const fn entry(label: &'static str, sqlstate: &'static str, fatal: bool, what: &'static str, remedy: &'static str) -> Entry {
    Entry { label, sqlstate, fatal, what, remedy }
}

pub(super) const TABLE: [Entry; 41] = [
    entry(
        "malformed",
        sqlstate::PROTOCOL_VIOLATION,
        true,
        "The client sent what is no message of the protocol.",
        "A driver's bug, or something else than a PostgreSQL client.",
    ),
    entry(
        "bad_packet",
        sqlstate::PROTOCOL_VIOLATION,
        true,
        "The first packet is not a startup packet, or asks for what there is not.",
        "`0A000` names a protocol version, `28000` a missing user, `42601` and `22023` a bad `options` or `replication`.",
    ),
    entry(
        "early_data",
        sqlstate::PROTOCOL_VIOLATION,
        true,
        "Bytes arrived behind a request for encryption before it was answered.",
        "Somebody may be injecting data into the connection.",
    ),
    entry(
        "tls_required",
        sqlstate::INVALID_AUTHORIZATION,
        true,
        "`tls.client.mode` is `require` and the client came without TLS, or a password in the clear would be needed.",
        "Set `sslmode=require` at the client.",
    ),
    entry(
        "asked_twice",
        sqlstate::PROTOCOL_VIOLATION,
        true,
        "The client asked for the same encryption twice, or for TLS within TLS.",
        "A driver's bug.",
    ),
    entry(
        "denied",
        sqlstate::INVALID_PASSWORD,
        true,
        "The password is wrong, or the user unknown: which of both is not told.",
        "The log of the proxy knows which.",
    ),
    entry(
        "certificate",
        sqlstate::INVALID_AUTHORIZATION,
        true,
        "The client certificate is missing or names somebody else.",
        "See `certificate_names` of the user.",
    ),
    entry(
        "login_timeout",
        sqlstate::QUERY_CANCELED,
        true,
        "The login was not done within `login_timeout`.",
        "Usually a client that was frozen while it connected.",
    ),
    entry(
        "unknown_database",
        sqlstate::INVALID_CATALOG_NAME,
        true,
        "No database of that name is configured.",
        "List it under `[databases]`, or add `\"*\"`.",
    ),
    entry(
        "tenant",
        sqlstate::INVALID_AUTHORIZATION,
        true,
        "The client names a tenant that it may not name, or that there is not.",
        "See `may_name_tenant` of the user.",
    ),
    entry(
        "too_many_clients",
        sqlstate::TOO_MANY_CONNECTIONS,
        true,
        "As many clients are connected as may: the tenant's or the proxy's `max_clients`.",
        "Raise it, or find out who keeps connections.",
    ),
    entry(
        "queue_full",
        sqlstate::TOO_MANY_CONNECTIONS,
        false,
        "As many of the tenant's clients wait for a server connection as may (`max_queue`).",
        "Retry later, with jitter.",
    ),
    entry(
        "queue_timeout",
        sqlstate::TOO_MANY_CONNECTIONS,
        false,
        "No server connection came free within `queue_timeout`.",
        "Retry later, with jitter; more `max_connections`, or fewer callers.",
    ),
    entry("upstream_down", sqlstate::CANNOT_CONNECT_NOW, false, "The upstream cannot be reached.", "The proxy's log says why."),
    entry(
        "server_refused",
        "as the server's",
        false,
        "The server refused the connection that the client needs; its own error is passed on.",
        "The server's own words say why.",
    ),
    entry(
        "draining",
        sqlstate::CANNOT_CONNECT_NOW,
        true,
        "The proxy is stopping and takes no new clients.",
        "Connect again: another replica answers.",
    ),
    entry("shutdown", sqlstate::ADMIN_SHUTDOWN, true, "The proxy is stopping and ends idle clients last.", "Connect again."),
    entry("killed", sqlstate::ADMIN_SHUTDOWN, true, "An administrator ended the session.", ""),
    entry(
        "server_lost",
        sqlstate::CONNECTION_FAILURE,
        true,
        "The server connection was lost inside a transaction or during a query.",
        "Whether the transaction was committed is not known; connect again.",
    ),
    entry(
        "idle_in_transaction",
        sqlstate::IDLE_IN_TRANSACTION,
        true,
        "The client left a transaction open with nothing running for longer than `idle_transaction_timeout`.",
        "A Lambda that was frozen inside BEGIN; commit before returning.",
    ),
    entry(
        "idle_client",
        sqlstate::IDLE_SESSION_TIMEOUT,
        true,
        "The client was idle for longer than `client_idle_timeout`.",
        "It is off by default.",
    ),
    entry("cancelled_waiting", sqlstate::QUERY_CANCELED, false, "The client cancelled what was still waiting for a server connection.", ""),
    entry(
        "statement_mode",
        sqlstate::FEATURE_NOT_SUPPORTED,
        true,
        "A transaction over several statements on a database with `pool_mode = \"statement\"`.",
        "Use `pool_mode = \"transaction\"`.",
    ),
    entry(
        "statement_exists",
        sqlstate::DUPLICATE_STATEMENT_NAME,
        false,
        "The client prepares a statement under a name that it has given already, as PostgreSQL would say.",
        "Close the statement first, or give another name.",
    ),
    entry(
        "strict",
        sqlstate::FEATURE_NOT_SUPPORTED,
        false,
        "A statement that would keep its server connection beyond its transaction, on a database with `strict = true`.",
        "Do without it, or take `strict` off.",
    ),
    entry(
        "max_pinned",
        sqlstate::TOO_MANY_CONNECTIONS,
        false,
        "A statement that would keep its server connection beyond its transaction, and as many of the tenant's clients keep one as may (`max_pinned`).",
        "Retry later, with jitter; let go what is kept: UNLISTEN, DROP the temporary table, unlock.",
    ),
    entry(
        "too_late",
        sqlstate::TOO_MANY_CONNECTIONS,
        false,
        "The client's turn for a server connection would come long after `queue_timeout` or its own deadline, by the pace at which its tenant is served: it is refused at once.",
        "Retry after the time in the hint; more `max_connections`, shorter transactions, or fewer callers.",
    ),
    entry(
        "transaction_rate",
        sqlstate::TOO_MANY_CONNECTIONS,
        false,
        "The tenant begins more transactions per second than it may (`transactions_per_second`, `transactions_burst`).",
        "Retry after the time in the hint.",
    ),
    entry(
        "server_time",
        sqlstate::TOO_MANY_CONNECTIONS,
        false,
        "The tenant has used the server time that it may use in a minute (`server_seconds_per_minute`).",
        "Retry after the time in the hint; shorter transactions.",
    ),
    entry(
        "login_rate",
        sqlstate::TOO_MANY_CONNECTIONS,
        true,
        "The tenant's clients log in more often than they may (`logins_per_second`, `logins_burst`).",
        "Keep connections between invocations; retry after the time in the text.",
    ),
    entry(
        "deadline",
        sqlstate::QUERY_CANCELED,
        false,
        "The time that the client's caller has left (`pgweir.deadline_ms`, `pgweir.deadline_at`, `pgweir.budget_ms`, or a comment `/* deadline_ms=N */`) was over before a server connection was free.",
        "Nothing was run; a statement that runs is cancelled with the same code by the server.",
    ),
    entry(
        "deadline_in_transaction",
        sqlstate::IDLE_IN_TRANSACTION,
        true,
        "The same inside a transaction, for a client that keeps its server connection or is in the middle of a message. Others keep their session: the transaction is undone, and what they say next fails as in any failed transaction.",
        "Connect again.",
    ),
    entry(
        "bad_deadline",
        sqlstate::INVALID_PARAMETER_VALUE,
        false,
        "`SET pgweir.deadline_ms` or `pgweir.deadline_at` with a value that is no number of milliseconds.",
        "Write the milliseconds that are left, or the time since 1970 in milliseconds.",
    ),
    entry(
        "holds_up_others",
        sqlstate::IDLE_IN_TRANSACTION,
        true,
        "The client left a transaction open with nothing running for longer than `contended_idle_transaction_timeout`, while others waited for its server connection.",
        "As for `idle_in_transaction`; more server connections help if the callers cannot be quicker.",
    ),
    entry(
        "database_disabled",
        sqlstate::CANNOT_CONNECT_NOW,
        true,
        "An operator has told the proxy to let no new clients into the database (`DISABLE`).",
        "`ENABLE` it on the admin database.",
    ),
    entry(
        "console_denied",
        sqlstate::INSUFFICIENT_PRIVILEGE,
        true,
        "The user may not use the admin database.",
        "Add the user to `console.admin_users` or `console.stats_users`.",
    ),
    entry(
        "bad_request",
        sqlstate::INVALID_PARAMETER_VALUE,
        false,
        "A request for SQL over HTTP that cannot be understood.",
        "The text says what is wrong with it.",
    ),
    entry(
        "not_believed",
        sqlstate::INVALID_AUTHORIZATION,
        true,
        "A request for SQL over HTTP without a password, a token or a signature where one is needed, or with one that does not hold.",
        "The log of the proxy knows why.",
    ),
    entry(
        "too_long",
        sqlstate::PROGRAM_LIMIT_EXCEEDED,
        false,
        "A request for SQL over HTTP, or its answer, that is longer than it may be (`api.max_request`, `api.max_response`). An answer is never cut short.",
        "Ask for less at a time; a statement that was alone in its transaction may have been carried out.",
    ),
    entry(
        "portal_run",
        sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
        false,
        "A portal is executed again that has set the client's deadline already, as PostgreSQL would say.",
        "Bind the statement once more.",
    ),
    entry(
        "internal",
        sqlstate::INTERNAL_ERROR,
        true,
        "Something is wrong inside the proxy, or it does not support what was asked for.",
        "Please report it, with the log.",
    ),
];

/// The labels of all faults in metrics, by their number.
pub const LABELS: [&str; TABLE.len()] = {
    let mut labels = [""; TABLE.len()];
    let mut at = 0;
    while at < labels.len() {
        labels[at] = TABLE[at].label;
        at += 1;
    }
    labels
};

/// The reference page of all faults, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(
        "# What a refused client hears\n\nGenerated from the fault table; do not edit. On a session that is logged in, a refusal of one transaction is an `ERROR`, after which the \
         connection can be used again; a `FATAL` ends it. A refused login is always `FATAL`. The label is that of `refused_total`.\n\n| label | SQLSTATE | severity | when | what to do |\n|---|---|---|---|---|\n",
    );
    for Entry { label, sqlstate, fatal, what, remedy } in TABLE {
        let severity = if fatal { "FATAL" } else { "ERROR" };
        let _ = writeln!(page, "| `{label}` | `{sqlstate}` | {severity} | {what} | {remedy} |");
    }
    page
}
