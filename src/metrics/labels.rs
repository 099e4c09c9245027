//! The values that labels may have: small sets that are known beforehand, so that a page's size is known beforehand too.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use serde::{Serialize, Serializer};

/// A small set of values of a label.
pub trait Label: Copy + 'static {
    /// Every value, in order.
    const ALL: &'static [Self];

    /// The value as it is published.
    fn label(self) -> &'static str;

    /// What the value means, for the reference.
    fn meaning(self) -> &'static str;

    /// Its place in [`ALL`](Self::ALL).
    fn index(self) -> usize;
}

/// A number for each value of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By<L, N> {
    numbers: Vec<N>,
    label: PhantomData<L>,
}

impl<L: Label, N: Copy> By<L, N> {
    /// The numbers that `number` says.
    pub fn each(number: impl FnMut(L) -> N) -> Self {
        Self { numbers: L::ALL.iter().copied().map(number).collect(), label: PhantomData }
    }

    /// Every value with its number, in order.
    pub fn iter(&self) -> impl Iterator<Item = (L, N)> {
        L::ALL.iter().copied().zip(self.numbers.iter().copied())
    }

    /// The numbers, to change them.
    pub(super) fn numbers_mut(&mut self) -> &mut [N] {
        &mut self.numbers
    }

    /// The numbers.
    pub(super) fn numbers(&self) -> &[N] {
        &self.numbers
    }
}

impl<L: Label, N: Copy + Default> Default for By<L, N> {
    fn default() -> Self {
        Self::each(|_| N::default())
    }
}

impl<L: Label, N> Index<L> for By<L, N> {
    type Output = N;

    fn index(&self, value: L) -> &N {
        &self.numbers[value.index()]
    }
}

impl<L: Label, N> IndexMut<L> for By<L, N> {
    fn index_mut(&mut self, value: L) -> &mut N {
        &mut self.numbers[value.index()]
    }
}

impl<L: Label, N: Copy + Serialize> Serialize for By<L, N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(value, number)| (value.label(), number)))
    }
}

/// Numbers by labels that another room defines (faults, reasons to pin); those that are 0 are absent.
pub type Sparse<N> = BTreeMap<&'static str, N>;

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $(#[doc = $meaning:literal] $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $(#[doc = $meaning] $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value of the label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }

            /// What the value means, for the reference.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),+ }
            }

            /// Its place in [`ALL`](Self::ALL).
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl Label for $name {
            const ALL: &'static [Self] = Self::ALL;

            fn label(self) -> &'static str {
                self.label()
            }

            fn meaning(self) -> &'static str {
                self.meaning()
            }

            fn index(self) -> usize {
                self.index()
            }
        }
    };
}

labelled! {
    /// How it stands with an upstream, or with a tenant there.
    PressureState {
        /// Nobody waits to speak of.
        Ok = "ok",
        /// Clients wait.
        Queueing = "queueing",
        /// Clients are refused for want of server connections.
        Shedding = "shedding",
        /// The upstream does not answer.
        Down = "down",
    }
}

labelled! {
    /// What a client is doing.
    ClientState {
        /// It has not logged in yet.
        Login = "login",
        /// It holds nothing.
        Idle = "idle",
        /// It waits for a server connection.
        Waiting = "waiting",
        /// It holds a server connection, for a transaction.
        Active = "active",
        /// It holds a server connection for longer than a transaction.
        Pinned = "pinned",
    }
}

labelled! {
    /// How a login ended.
    LoginOutcome {
        /// The client is in.
        Ok = "ok",
        /// The secret was wrong, or the user or database unknown.
        Denied = "denied",
        /// A limit was reached, or the proxy is draining.
        Refused = "refused",
        /// The client broke the protocol, went away or took too long.
        Failed = "failed",
    }
}

labelled! {
    /// A way to speak SQL over HTTP.
    Api {
        /// `POST /sql`, as Neon's driver speaks it.
        Neon = "neon",
        /// The operations of the RDS Data API.
        Data = "data",
        /// `POST /query`.
        Query = "query",
        /// A WebSocket with the PostgreSQL protocol inside, counted when it is opened.
        Tunnel = "tunnel",
    }
}

labelled! {
    /// How a request over HTTP ended.
    ApiOutcome {
        /// It was answered.
        Ok = "ok",
        /// The request or its statement was wrong.
        Error = "error",
        /// The caller was not believed.
        Denied = "denied",
        /// There was no room, or it came too late.
        Refused = "refused",
        /// The database or the proxy failed.
        Failed = "failed",
    }
}

labelled! {
    /// Why a query was cancelled.
    CancelCause {
        /// The client asked.
        Request = "request",
        /// Its deadline passed.
        Deadline = "deadline",
        /// The client has gone.
        ClientGone = "client_gone",
        /// A timeout of the configuration passed.
        Timeout = "timeout",
    }
}

labelled! {
    /// What is done with a prepared statement that has a name.
    StatementStep {
        /// A client prepared it.
        Prepared = "prepared",
        /// It was parsed on a server connection that did not have it.
        Parsed = "parsed",
        /// A client bound it to parameters.
        Bound = "bound",
    }
}

labelled! {
    /// How the opening of a server connection ended.
    ConnectOutcome {
        /// It is open.
        Ok = "ok",
        /// The server said no.
        Refused = "refused",
        /// The server could not be reached or did not answer.
        Failed = "failed",
    }
}

labelled! {
    /// What a server connection is doing. Each of these counts against the upstream's budget.
    ServerState {
        /// It is being opened and logged in.
        Opening = "opening",
        /// Nobody holds it.
        Idle = "idle",
        /// A client holds it.
        Leased = "leased",
        /// It is being put in order after a client, or checked.
        Mending = "mending",
        /// It listens to channels for all clients of its database and user that want to hear of them.
        Listening = "listening",
        /// It is being closed, until the server has ended it.
        Closing = "closing",
    }
}

labelled! {
    /// What the whole process is doing.
    Lifecycle {
        /// It does not take clients yet.
        Starting = "starting",
        /// It takes clients.
        Ready = "ready",
        /// It is stopping.
        Draining = "draining",
    }
}

impl Serialize for Lifecycle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}
