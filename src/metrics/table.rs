//! The table of metric families: the one place where a metric has its name, type, labels, unit and help. The export and the reference page both come from it.

use super::export::{Samples, View};
use super::labels::{Api, ApiOutcome, CancelCause, ClientState, ConnectOutcome, Label, LoginOutcome, ServerState, StatementStep};
use super::tenant::TenantNumbers;
use super::{Durations, Sparse, UpstreamSnapshot};

/// A metric family.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: &'static str,
    pub(super) labels: &'static [Tag],
    pub(super) help: &'static str,
    /// Reads the family's samples, with a value for each label.
    pub(super) read: fn(&View<'_>, &mut Samples),
}

/// What kind of number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How long things took.
    Histogram,
}

/// A label.
pub(super) struct Tag {
    pub(super) name: &'static str,
    pub(super) values: Values,
}

/// What values a label has.
pub(super) enum Values {
    /// Configured names, or what another page lists.
    Named(&'static str),
    /// These, each with its meaning.
    Words(fn() -> Vec<(&'static str, &'static str)>),
}

fn words<L: Label>() -> Vec<(&'static str, &'static str)> {
    L::ALL.iter().map(|value| (value.label(), value.meaning())).collect()
}

const TENANT: Tag = Tag { name: "tenant", values: Values::Named("a tenant's name, or `_other`") };
const UPSTREAM: Tag = Tag { name: "upstream", values: Values::Named("an upstream's name") };
const FAULT: Tag = Tag { name: "fault", values: Values::Named("what was refused or went wrong") };
const REASON: Tag = Tag { name: "reason", values: Values::Named("why the connection cannot be shared") };
const VERSION: Tag = Tag { name: "version", values: Values::Named("the version of the program") };
const CLIENT_STATE: Tag = Tag { name: "state", values: Values::Words(words::<ClientState>) };
const LOGIN_OUTCOME: Tag = Tag { name: "outcome", values: Values::Words(words::<LoginOutcome>) };
const SERVER_STATE: Tag = Tag { name: "state", values: Values::Words(words::<ServerState>) };
const CONNECT_OUTCOME: Tag = Tag { name: "outcome", values: Values::Words(words::<ConnectOutcome>) };
const API: Tag = Tag { name: "api", values: Values::Words(words::<Api>) };
const API_OUTCOME: Tag = Tag { name: "outcome", values: Values::Words(words::<ApiOutcome>) };
const CAUSE: Tag = Tag { name: "cause", values: Values::Words(words::<CancelCause>) };
const STEP: Tag = Tag { name: "step", values: Values::Words(words::<StatementStep>) };
const DIRECTION: Tag =
    Tag { name: "direction", values: Values::Words(|| vec![("in", " From clients to servers."), ("out", " From servers to clients.")]) };

/// Every family, in the order of the reference page.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "pgweir_clients",
        kind: Kind::Gauge,
        unit: "clients",
        labels: &[TENANT, CLIENT_STATE],
        help: "Client connections, by what they are doing.",
        read: |view, samples| {
            each_tenant(view, |name, tenant| tenant.clients.iter().for_each(|(state, count)| samples.level(&[name, state.label()], count)));
        },
    },
    Family {
        name: "pgweir_client_logins_total",
        kind: Kind::Counter,
        unit: "logins",
        labels: &[TENANT, LOGIN_OUTCOME],
        help: "Logins of clients that have ended, by how.",
        read: |view, samples| {
            each_tenant(view, |name, tenant| tenant.logins.iter().for_each(|(outcome, n)| samples.count(&[name, outcome.label()], n)));
        },
    },
    Family {
        name: "pgweir_login_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        labels: &[],
        help: "From accepting a client to the end of its login.",
        read: |view, samples| samples.durations(&[], &view.logins()),
    },
    Family {
        name: "pgweir_server_connections",
        kind: Kind::Gauge,
        unit: "connections",
        labels: &[UPSTREAM, SERVER_STATE],
        help: "Server connections, by what they are doing. All of them together never exceed pgweir_upstream_limit.",
        read: |view, samples| {
            each_upstream(view, |name, upstream| {
                upstream.connections.iter().for_each(|(state, count)| samples.count(&[name, state.label()], count));
            });
        },
    },
    Family {
        name: "pgweir_server_connects_total",
        kind: Kind::Counter,
        unit: "connections",
        labels: &[UPSTREAM, CONNECT_OUTCOME],
        help: "Attempts to open a server connection that have ended, by how.",
        read: |view, samples| {
            each_upstream(view, |name, upstream| {
                upstream.connects.iter().for_each(|(outcome, count)| samples.count(&[name, outcome.label()], count));
            });
        },
    },
    Family {
        name: "pgweir_server_connect_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        labels: &[UPSTREAM],
        help: "How long opening a server connection took, login included, whatever came of it.",
        read: |view, samples| each_upstream(view, |name, upstream| samples.durations(&[name], &upstream.connect)),
    },
    Family {
        name: "pgweir_upstream_limit",
        kind: Kind::Gauge,
        unit: "connections",
        labels: &[UPSTREAM],
        help: "How many server connections the upstream may have, in whatever state. Where its budget is shared with other proxies, this one's part.",
        read: |view, samples| each_upstream(view, |name, upstream| samples.count(&[name], upstream.limit.into())),
    },
    Family {
        name: "pgweir_upstream_limit_suggested",
        kind: Kind::Gauge,
        unit: "connections",
        labels: &[UPSTREAM],
        help: "How many server connections at work do the most, as far as is known: what an adaptive limit has come to, or what is observed. Nothing with a fixed limit.",
        read: |view, samples| {
            each_upstream(view, |name, upstream| {
                if let Some(suggested) = upstream.suggested_limit {
                    samples.count(&[name], suggested.into());
                }
            });
        },
    },
    Family {
        name: "pgweir_upstream_proxies",
        kind: Kind::Gauge,
        unit: "proxies",
        labels: &[UPSTREAM],
        help: "How many proxies share the upstream's budget, this one among them; 0 while the server cannot be asked. Nothing where the budget is not shared.",
        read: |view, samples| {
            each_upstream(view, |name, upstream| {
                if let Some(proxies) = upstream.proxies {
                    samples.count(&[name], proxies.into());
                }
            });
        },
    },
    Family {
        name: "pgweir_upstream_up",
        kind: Kind::Gauge,
        unit: "1 or 0",
        labels: &[UPSTREAM],
        help: "Whether the upstream answers, as far as the last attempt to open a connection says.",
        read: |view, samples| each_upstream(view, |name, upstream| samples.count(&[name], upstream.up.into())),
    },
    Family {
        name: "pgweir_upstream_moves_total",
        kind: Kind::Counter,
        unit: "moves",
        labels: &[UPSTREAM],
        help: "How often all server connections were given up because the server is elsewhere now, or is a standby.",
        read: |view, samples| each_upstream(view, |name, upstream| samples.count(&[name], upstream.moves)),
    },
    Family {
        name: "pgweir_queue_depth",
        kind: Kind::Gauge,
        unit: "clients",
        labels: &[TENANT, UPSTREAM],
        help: "Clients that wait for a server connection. Tenants that have none waiting may be absent.",
        read: |view, samples| {
            each_upstream(view, |name, upstream| {
                view.queues(upstream).into_iter().for_each(|(tenant, depth)| samples.count(&[tenant, name], depth));
            });
        },
    },
    Family {
        name: "pgweir_queue_wait_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        labels: &[TENANT],
        help: "From the wish for a server connection to having it; those that did not wait count as well.",
        read: |view, samples| each_duration(view, samples, |tenant| &tenant.queue_wait),
    },
    Family {
        name: "pgweir_lease_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        labels: &[TENANT],
        help: "How long clients held a server connection.",
        read: |view, samples| each_duration(view, samples, |tenant| &tenant.lease),
    },
    Family {
        name: "pgweir_query_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        labels: &[TENANT],
        help: "From a client's request to the end of the answer.",
        read: |view, samples| each_duration(view, samples, |tenant| &tenant.query),
    },
    Family {
        name: "pgweir_transactions_total",
        kind: Kind::Counter,
        unit: "transactions",
        labels: &[TENANT],
        help: "Transactions that have ended.",
        read: |view, samples| each_tenant(view, |name, tenant| samples.count(&[name], tenant.transactions)),
    },
    Family {
        name: "pgweir_queries_total",
        kind: Kind::Counter,
        unit: "requests",
        labels: &[TENANT],
        help: "Requests of clients that were answered.",
        read: |view, samples| each_tenant(view, |name, tenant| samples.count(&[name], tenant.queries)),
    },
    Family {
        name: "pgweir_listening_clients",
        kind: Kind::Gauge,
        unit: "clients",
        labels: &[UPSTREAM],
        help: "Clients that listen (LISTEN) by way of a server connection that those of their database and user share.",
        read: |view, samples| {
            each_upstream(view, |name, upstream| samples.count(&[name], upstream.pools.iter().map(|pool| pool.listening).sum()));
        },
    },
    Family {
        name: "pgweir_notifications_total",
        kind: Kind::Counter,
        unit: "notifications",
        labels: &[TENANT],
        help: "Notifications that clients heard by way of a shared server connection, once for each client.",
        read: |view, samples| each_tenant(view, |name, tenant| samples.count(&[name], tenant.notifications)),
    },
    Family {
        name: "pgweir_prepared_statements_total",
        kind: Kind::Counter,
        unit: "messages",
        labels: &[TENANT, STEP],
        help: "Messages about prepared statements with names: what clients prepare is parsed once for each server connection that it runs on, whoever prepares it.",
        read: |view, samples| {
            each_tenant(view, |name, tenant| tenant.statements.iter().for_each(|(step, n)| samples.count(&[name, step.label()], n)));
        },
    },
    Family {
        name: "pgweir_bytes_total",
        kind: Kind::Counter,
        unit: "bytes",
        labels: &[TENANT, DIRECTION],
        help: "Bytes relayed.",
        read: |view, samples| {
            each_tenant(view, |name, tenant| {
                samples.count(&[name, "in"], tenant.bytes_in);
                samples.count(&[name, "out"], tenant.bytes_out);
            });
        },
    },
    Family {
        name: "pgweir_refused_total",
        kind: Kind::Counter,
        unit: "refusals",
        labels: &[TENANT, FAULT],
        help: "Refusals and failures that the proxy itself told clients about; absent while there were none.",
        read: |view, samples| each_count(view, samples, |tenant| &tenant.refused),
    },
    Family {
        name: "pgweir_pinned",
        kind: Kind::Gauge,
        unit: "clients",
        labels: &[TENANT, REASON],
        help: "Clients that hold a server connection for longer than a transaction; absent while there are none.",
        read: |view, samples| {
            each_tenant(view, |name, tenant| tenant.pinned.iter().for_each(|(reason, level)| samples.level(&[name, reason], *level)));
        },
    },
    Family {
        name: "pgweir_pins_total",
        kind: Kind::Counter,
        unit: "pins",
        labels: &[TENANT, REASON],
        help: "How often a client began to hold a server connection for longer than a transaction; absent while none has.",
        read: |view, samples| each_count(view, samples, |tenant| &tenant.pins),
    },
    Family {
        name: "pgweir_cancelled_total",
        kind: Kind::Counter,
        unit: "queries",
        labels: &[TENANT, CAUSE],
        help: "Queries that were cancelled, by why.",
        read: |view, samples| {
            each_tenant(view, |name, tenant| tenant.cancelled.iter().for_each(|(cause, n)| samples.count(&[name, cause.label()], n)));
        },
    },
    Family {
        name: "pgweir_pressure",
        kind: Kind::Gauge,
        unit: "0 to 1",
        labels: &[UPSTREAM],
        help: "How hard the upstream is pressed: up to a half how busy its connections are, above that how long clients wait for what they may wait; 1 where it is down or clients are refused.",
        read: |view, samples| each_upstream(view, |name, upstream| samples.value(&[name], upstream.pressure.pressure)),
    },
    Family {
        name: "pgweir_api_requests_total",
        kind: Kind::Counter,
        unit: "requests",
        labels: &[API, API_OUTCOME],
        help: "Requests of SQL over HTTP that were answered, by how they were made and how they ended; what their callers do as clients is counted with everybody's.",
        read: |view, samples| {
            view.snapshot.api.requests.iter().for_each(|requests| {
                requests.outcomes.iter().for_each(|(outcome, count)| samples.count(&[requests.api, outcome.label()], count));
            });
        },
    },
    Family {
        name: "pgweir_api_request_seconds",
        kind: Kind::Histogram,
        unit: "seconds",
        labels: &[API],
        help: "From a request of SQL over HTTP, its body included, to its answer.",
        read: |view, samples| view.snapshot.api.requests.iter().for_each(|requests| samples.durations(&[requests.api], &requests.took)),
    },
    Family {
        name: "pgweir_api_connections",
        kind: Kind::Gauge,
        unit: "connections",
        labels: &[],
        help: "Open connections for SQL over HTTP, tunnels among them.",
        read: |view, samples| samples.level(&[], view.snapshot.api.connections),
    },
    Family {
        name: "pgweir_api_transactions",
        kind: Kind::Gauge,
        unit: "transactions",
        labels: &[],
        help: "Transactions of the Data API that are held between two calls or are at work: each holds a server connection.",
        read: |view, samples| samples.level(&[], view.snapshot.api.transactions),
    },
    Family {
        name: "pgweir_build_info",
        kind: Kind::Gauge,
        unit: "1",
        labels: &[VERSION],
        help: "The program that runs; always 1.",
        read: |view, samples| samples.count(&[view.snapshot.version], 1),
    },
    Family {
        name: "pgweir_process_start_time_seconds",
        kind: Kind::Gauge,
        unit: "seconds since 1970",
        labels: &[],
        help: "When the process started.",
        read: |view, samples| samples.value(&[], view.snapshot.process.started),
    },
    Family {
        name: "pgweir_process_cpu_seconds_total",
        kind: Kind::Counter,
        unit: "seconds",
        labels: &[],
        help: "CPU time, user's and system's, of all threads.",
        read: |view, samples| samples.value(&[], view.snapshot.process.usage.cpu_seconds),
    },
    Family {
        name: "pgweir_process_resident_memory_bytes",
        kind: Kind::Gauge,
        unit: "bytes",
        labels: &[],
        help: "Memory that is in RAM; absent where the system does not say.",
        read: |view, samples| view.snapshot.process.usage.resident_bytes.into_iter().for_each(|bytes| samples.count(&[], bytes)),
    },
    Family {
        name: "pgweir_process_open_fds",
        kind: Kind::Gauge,
        unit: "descriptors",
        labels: &[],
        help: "Open file descriptors; absent where the system does not say.",
        read: |view, samples| view.snapshot.process.usage.open_fds.into_iter().for_each(|count| samples.count(&[], count)),
    },
];

fn each_tenant(view: &View<'_>, mut read: impl FnMut(&str, &TenantNumbers)) {
    view.tenants.iter().for_each(|(name, tenant)| read(name, tenant));
}

fn each_upstream(view: &View<'_>, mut read: impl FnMut(&str, &UpstreamSnapshot)) {
    view.snapshot.upstreams.iter().for_each(|upstream| read(&upstream.name, upstream));
}

fn each_duration(view: &View<'_>, samples: &mut Samples, which: impl Fn(&TenantNumbers) -> &Durations) {
    each_tenant(view, |name, tenant| samples.durations(&[name], which(tenant)));
}

fn each_count(view: &View<'_>, samples: &mut Samples, which: impl Fn(&TenantNumbers) -> &Sparse<u64>) {
    each_tenant(view, |name, tenant| which(tenant).iter().for_each(|(label, count)| samples.count(&[name, label], *count)));
}
