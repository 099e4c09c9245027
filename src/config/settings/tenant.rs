//! Limits: what every tenant gets, and what one tenant gets instead. Both tables, and the limits that the program goes by, are one definition.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::glob::Glob;
use crate::config::value::Period;

/// How a written limit becomes the one that the program goes by.
pub trait Written: Copy {
    /// The form that the program goes by.
    type Limit;
    /// Turns it into that.
    fn compile(self) -> Self::Limit;
}

impl Written for u32 {
    type Limit = u32;
    fn compile(self) -> u32 {
        self
    }
}

impl Written for Period {
    type Limit = Option<Duration>;
    fn compile(self) -> Option<Duration> {
        self.limit()
    }
}

/// Defines each limit once: its doc, name, type and default. Out come `defaults` (every limit set), `tenants.NAME` (every limit may be missing) and [`Limits`].
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $(#[range($min:literal..=$max:literal)])? $name:ident: $type:ty = $default:expr;)+) => {
        /// What every tenant gets unless it says otherwise.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct DefaultsSettings {
            $($(#[doc = $doc])+ $(#[schemars(range(min = $min, max = $max))])? pub $name: $type,)+
        }

        impl Default for DefaultsSettings {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        /// One tenant: which clients belong to it, where its data lives, and its limits.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct TenantSettings {
            /// Which clients belong to it: every pattern that is given must fit. Without any, only clients that name the tenant themselves do.
            #[serde(rename = "match")]
            pub matching: MatchSettings,
            /// The upstream where this tenant's data lives, in place of the one that the database names.
            ///
            /// applies: next connection
            #[schemars(example = &"main")]
            pub upstream: Option<String>,
            $($(#[doc = $doc])+ $(#[schemars(range(min = $min, max = $max))])? pub $name: Option<$type>,)+
        }

        impl TenantSettings {
            /// The tenant's limits, from `defaults` where it is silent.
            pub fn limits(&self, defaults: &DefaultsSettings) -> Limits {
                Limits { $($name: self.$name.unwrap_or(defaults.$name).compile(),)+ }
            }
        }

        /// What a tenant may use; a duration that is `None` is off, a number that is 0 no limit.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])+ pub $name: <$type as Written>::Limit,)+
        }
    };
}

limits! {
    /// The most server connections that the tenant holds at a time. 0 is the upstream's whole budget.
    ///
    /// applies: at once
    #[range(0..=100_000)]
    max_server_connections: u32 = 0;
    /// Server connections that are always there for the tenant and never lent to others. All tenants' together must fit in the upstream's budget.
    ///
    /// applies: at once
    #[range(0..=100_000)]
    reserved_server_connections: u32 = 0;
    /// The tenant's share of server time when tenants wait for each other, relative to the others' weights. Of those who wait, the tenant goes first that has
    /// had the least server time for its weight.
    ///
    /// applies: at once
    #[range(1..=10_000)]
    weight: u32 = 1;
    /// The most client connections. One more is refused at login with 53300 in the text.
    ///
    /// applies: at once
    #[range(0..=1_000_000)]
    max_clients: u32 = 10_000;
    /// The most clients that wait for a server connection at a time. One more is refused with 53300. 0 lets nobody wait.
    ///
    /// applies: at once
    #[range(0..=1_000_000)]
    max_queue: u32 = 1_000;
    /// The most server connections that the tenant's clients keep beyond their transactions at a time (for LISTEN, temporary tables, advisory locks). A statement
    /// that would keep one more is refused with 53300. 0 is no limit.
    ///
    /// applies: at once
    #[range(0..=100_000)]
    max_pinned: u32 = 0;
    /// The longest that a client waits for a server connection; then it is refused with 53300, or at once where its turn would surely come too late. `"0"`
    /// waits for ever.
    ///
    /// applies: at once
    queue_timeout: Period = Period::secs(5);
    /// The longest that one statement may run; then it is cancelled with 57014. `"0"` is no limit.
    ///
    /// applies: at once
    query_timeout: Period = Period::secs(0);
    /// The longest that one transaction may stay open; then it is cancelled and rolled back. `"0"` is no limit.
    ///
    /// applies: at once
    transaction_timeout: Period = Period::secs(0);
    /// The longest that a client may leave a transaction open with nothing running (25P03). A Lambda that was frozen inside BEGIN holds its row locks that long.
    /// `"0"` is no limit.
    ///
    /// applies: at once
    idle_transaction_timeout: Period = Period::secs(30);
    /// The same while other clients wait for the server connection that it holds; `"500ms"` at least. `"0"` makes no difference between the two.
    ///
    /// applies: at once
    contended_idle_transaction_timeout: Period = Period::secs(10);
    /// The longest that a client may be idle outside a transaction. `"0"` never closes it: an idle close kills a node-postgres process that
    /// has no error listener, and an idle client costs about 1 KiB.
    ///
    /// applies: at once
    client_idle_timeout: Period = Period::secs(0);
    /// The most transactions begun per second, on average; one more is refused with 53300 and the time after which to come back. In session mode, and while a
    /// client keeps its server connection, each time that it is given one counts. 0 is no limit.
    ///
    /// applies: at once
    #[range(0..=10_000_000)]
    transactions_per_second: u32 = 0;
    /// How many transactions may begin at once before `transactions_per_second` holds. 0 is one second's worth.
    ///
    /// applies: at once
    #[range(0..=10_000_000)]
    transactions_burst: u32 = 0;
    /// The most logins per second, on average, whether they succeed or not; one more is refused with 53300 in the text. 0 is no limit.
    ///
    /// applies: at once
    #[range(0..=10_000_000)]
    logins_per_second: u32 = 0;
    /// How many logins may come at once before `logins_per_second` holds. 0 is one second's worth.
    ///
    /// applies: at once
    #[range(0..=10_000_000)]
    logins_burst: u32 = 0;
    /// The server time that the tenant may use in a minute, in seconds: what its clients hold server connections, all together. 60 is one connection all the time. What is
    /// not used can be used later, up to one minute's worth; whoever begins a transaction when it is used up is refused with 53300 and the time after which to come back.
    /// 0 is no limit.
    ///
    /// applies: at once
    #[range(0..=10_000_000)]
    server_seconds_per_minute: u32 = 0;
}

/// Which clients belong to a tenant. `*` in a pattern is any run of characters, `?` any one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MatchSettings {
    /// The user that the client logs in as.
    ///
    /// applies: next connection
    #[schemars(example = &"acme_*")]
    pub user: Option<Glob>,
    /// The database that the client names.
    ///
    /// applies: next connection
    #[schemars(example = &"acme")]
    pub database: Option<Glob>,
    /// The client's `application_name` at login.
    ///
    /// applies: next connection
    #[schemars(example = &"acme-*")]
    pub application_name: Option<Glob>,
    /// The server name that the client asked for in TLS (SNI).
    ///
    /// applies: next connection
    #[schemars(example = &"acme.db.example.com")]
    pub tls_name: Option<Glob>,
}
