//! What the functions of a database leave in the session that calls them: no text that calls one tells.
//!
//! A database is asked for the bodies of its own functions, from time to time and after whatever may have changed them, and for what calls those that leave
//! something: other functions, triggers, views, policies. What remains is a list of names, mostly an empty one; a text with one of them in it has to be looked after
//! like one that sets something itself. Checklist I3.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::broken::{Broken, ServerError};
use super::server::Server;
use crate::net::{Moment, now};
use crate::wire::sql::{self, Traces};
use crate::wire::sqlstate;

/// How long a list is good, in seconds, where nothing is known to have changed.
const GOOD_FOR: u64 = 60;

/// A list that took long to make is good for so many times as long.
const PATIENCE: u32 = 200;

/// Without an answer it is asked again after so many seconds, and twice as many each time, and so many times as long as that took.
const AGAIN: u64 = 1;
const AGAIN_TIMES: u32 = 20;

/// How long a question waits for a lock, in milliseconds.
const LOCK_WAIT: u64 = 50;

/// How many functions deep a call is followed.
const DEPTH: usize = 16;

/// Functions of extensions in C that change a setting of the session.
const IN_C: [&str; 3] = ["set_limit", "set_user", "reset_user"];

/// The body of a function that PostgreSQL has as what it was understood to be (`BEGIN ATOMIC`). To write it out as text it locks the tables in it.
const WRITTEN_OUT: &str = "pg_get_functiondef(pg_proc.oid)";

/// What the same calls, which needs no locks.
const CALLS_IN_IT: &str = r"(SELECT 'SELECT ' || string_agg(DISTINCT called.proname || '()', ', ')
    FROM regexp_matches(pg_proc.prosqlbody::text, E':funcid (\\d+)', 'g') AS found (id), pg_proc AS called WHERE called.oid = found.id[1]::oid)";

/// The bodies that may leave something, by the words in them.
const BODIES: [&str; 2] = [
    r"SELECT DISTINCT proname, lanname, body
    FROM pg_proc JOIN pg_language ON pg_language.oid = prolang,
    LATERAL (SELECT CASE WHEN prosrc = '' AND prokind IN ('f', 'p') THEN ",
    r" ELSE prosrc END) AS source (body)
    WHERE pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AND (lanname NOT IN ('internal', 'c') AND body ~* E'(\\m(set_config|reset|discard|listen|unlisten|load|prepare|execute|temp|temporary|pg_temp|hold|setseed|dblink_connect\\w*|(query|cursor)_to_xml\\w*|ts_rewrite|ts_stat)\\M|\\mpg_(try_)?advisory_lock|replication|backup|spi_)|(^|[\\n;''/>]|\\m(begin|then|else|loop|atomic)\\M)\\s*set\\M'",
];

/// Who may call a function of one of these names, or may fire it: functions whose bodies mention it (`f`), what depends on it as the catalogue has it and whoever
/// reads calls (`r`), or only whoever writes (`w`).
const CALLERS: &str = r"SELECT DISTINCT 'f', proname, name FROM called, pg_proc JOIN pg_language ON pg_language.oid = prolang
    WHERE pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AND lanname NOT IN ('internal', 'c')
    AND strpos(lower(prosrc), lower(name)) > 0 AND (name !~ E'^\\w+$' OR prosrc ~* (E'\\m' || name || E'\\M'))
    UNION SELECT CASE WHEN by_function.oid IS NOT NULL THEN 'f' WHEN classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass) THEN 'r' ELSE 'w' END,
        COALESCE(by_function.proname, relname), name FROM called
    JOIN (SELECT 'pg_proc'::regclass AS kind, oid, proname AS known FROM pg_proc
        UNION ALL SELECT 'pg_class', oid, relname FROM pg_class) AS object ON known = name
    JOIN pg_depend ON refclassid = object.kind AND refobjid = object.oid AND deptype = 'n'
    LEFT JOIN pg_proc AS by_function ON classid = 'pg_proc'::regclass AND by_function.oid = objid
    LEFT JOIN pg_rewrite ON classid = 'pg_rewrite'::regclass AND pg_rewrite.oid = objid
    LEFT JOIN pg_trigger ON classid = 'pg_trigger'::regclass AND pg_trigger.oid = objid
    LEFT JOIN pg_policy ON classid = 'pg_policy'::regclass AND pg_policy.oid = objid
    LEFT JOIN pg_attrdef ON classid = 'pg_attrdef'::regclass AND pg_attrdef.oid = objid
    LEFT JOIN pg_constraint ON classid = 'pg_constraint'::regclass AND pg_constraint.oid = objid
    LEFT JOIN pg_class ON pg_class.oid = COALESCE(ev_class, tgrelid, polrelid, adrelid, conrelid)
    WHERE COALESCE(by_function.proname, relname) IS NOT NULL";

/// The statements that write.
const WRITE: [&[u8]; 6] = [b"insert", b"update", b"delete", b"merge", b"copy", b"truncate"];

type Names = HashMap<Box<[u8]>, Traces, foldhash::fast::RandomState>;

/// The names that have to be looked after, and what each may leave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Wherever they stand.
    anywhere: Names,
    /// In a text that writes.
    written: Names,
}

impl Known {
    /// Asks a server, which is to answer within so long, or to say that it cannot. The search path of its session plays no part.
    ///
    /// Not cancel safe, as [`Server::run`].
    pub async fn ask(server: &mut Server, within: Duration) -> Result<Result<Self, ServerError>, Broken> {
        let mut known = Self::default();
        let until = now() + within;
        let names = IN_C.map(|name| format!("'{name}'")).join(", ");
        let bodies = |of| format!("{} OR proname IN ({names}))", BODIES.join(of)).into_bytes();
        let answer = match ask(server, &bodies(WRITTEN_OUT), until).await? {
            // Somebody changes, or has just dropped, a table that one of them is about.
            Err(refusal) if !refusal.is(sqlstate::QUERY_CANCELED) => ask(server, &bodies(CALLS_IN_IT), until).await?,
            answer => answer,
        };
        let rows = match answer {
            Ok(rows) => rows,
            Err(refusal) => return Ok(Err(refusal)),
        };
        for row in rows {
            let Ok([Some(name), Some(language), Some(body)]) = <[_; 3]>::try_from(row) else { continue };
            // Other languages are not read.
            let traces = if matches!(&*language, b"sql" | b"plpgsql") { sql::routine(&body) } else { Traces::ANY };
            add(&mut known.anywhere, &name, &traces);
        }
        let mut called: Vec<Box<[u8]>> = known.anywhere.keys().cloned().collect();
        for _ in 0..DEPTH {
            if called.is_empty() {
                break;
            }
            let rows = match ask(server, &callers(&called), until).await? {
                Ok(rows) => rows,
                Err(refusal) => return Ok(Err(refusal)),
            };
            called.clear();
            for row in rows {
                let Ok([Some(how), Some(caller), Some(name)]) = <[_; 3]>::try_from(row) else { continue };
                if known.call(&how, &caller, &name) {
                    called.push(caller);
                }
            }
        }
        Ok(Ok(known))
    }

    /// One calls the other, in this way: whether that leaves more than was known.
    fn call(&mut self, how: &[u8], caller: &[u8], name: &[u8]) -> bool {
        let [anywhere, written] = [&self.anywhere, &self.written].map(|names| names.get(name).cloned().unwrap_or_default());
        match how {
            b"f" => add(&mut self.anywhere, caller, &anywhere) | add(&mut self.anywhere, caller, &written),
            b"r" => add(&mut self.anywhere, caller, &anywhere) | add(&mut self.written, caller, &written),
            _ => add(&mut self.written, caller, &anywhere),
        }
    }

    /// What running a text may leave by way of what is mentioned in it; `None` where that is nothing.
    pub fn traces(&self, text: &[u8]) -> Option<Traces> {
        let (mut found, mut writes, mut if_it_writes) = (None::<Traces>, false, None::<Traces>);
        sql::mentions(text, |name| {
            if let Some(traces) = self.anywhere.get(name) {
                found.get_or_insert_default().add(traces);
            }
            if let Some(traces) = self.written.get(name) {
                if_it_writes.get_or_insert_default().add(traces);
            }
            writes |= WRITE.contains(&name);
        });
        match if_it_writes.filter(|_| writes) {
            Some(traces) => {
                found.get_or_insert_default().add(&traces);
                found
            }
            None => found,
        }
    }

    /// What calling all of them may leave.
    pub fn all(&self) -> Traces {
        let mut all = Traces::default();
        for traces in self.anywhere.values().chain(self.written.values()) {
            all.add(traces);
        }
        all
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.anywhere.is_empty() && self.written.is_empty()
    }
}

/// Adds what one name leaves; whether that is more than was known.
fn add(names: &mut Names, name: &[u8], traces: &Traces) -> bool {
    !traces.is_empty() && names.entry(name.into()).or_default().add(traces)
}

type Rows = Vec<Vec<Option<Box<[u8]>>>>;

/// Asks in a session whose settings are its client's. `SET LOCAL` ends with the message: until then all names and operators are the catalogue's, a plan is made for
/// what it costs and not compiled (a client that has disabled what the plan needs makes it cost any amount), and the server gives up in time.
async fn ask(server: &mut Server, question: &[u8], until: Moment) -> Result<Result<Rows, ServerError>, Broken> {
    loop {
        let left = u64::try_from(until.saturating_duration_since(now()).as_millis()).unwrap_or(u64::MAX);
        let (time, wait) = (left.max(1), left.clamp(1, LOCK_WAIT));
        let settings = format!(
            "SET LOCAL search_path = pg_catalog; SET LOCAL jit = off; SET LOCAL statement_timeout = {time}; SET LOCAL lock_timeout = {wait}; "
        );
        match server.ask_once(&[settings.as_bytes(), question].concat()).await? {
            // It was the end of somebody else's time, or a cancel that came late.
            Err(refusal) if left > LOCK_WAIT && refusal.is(sqlstate::QUERY_CANCELED) => {}
            answer => return Ok(answer),
        }
    }
}

fn callers(called: &[Box<[u8]>]) -> Vec<u8> {
    let names: Vec<Vec<u8>> = called.iter().map(|name| sql::quoted_literal(name)).collect();
    let with = b"WITH called (name) AS (SELECT unnest(ARRAY[";
    [&with[..], &names.join(&b", "[..]), b"]::name[])) ", CALLERS.as_bytes()].concat()
}

/// What is known of one database's functions, shared by all of its pools.
#[derive(Debug)]
pub struct Functions {
    known: ArcSwapOption<Known>,
    /// There are some names.
    has_any: AtomicBool,
    /// How often what is known has changed.
    version: AtomicU64,
    /// How often the functions may have changed, and how many of these changes are known.
    changes: AtomicU64,
    learned: AtomicU64,
    /// When to ask again although nothing is known to have changed, in seconds after `began`.
    due: AtomicU64,
    /// How often in a row there was no answer.
    unanswered: AtomicU32,
    began: Moment,
}

impl Functions {
    /// Nothing is known yet.
    pub fn new(now: Moment) -> Self {
        Self {
            known: ArcSwapOption::empty(),
            has_any: AtomicBool::new(false),
            version: AtomicU64::new(0),
            changes: AtomicU64::new(1),
            learned: AtomicU64::new(0),
            due: AtomicU64::new(0),
            unanswered: AtomicU32::new(0),
            began: now,
        }
    }

    /// How often what is known has changed, and the names, where there are any.
    #[inline]
    pub fn known(&self) -> (u64, Option<Arc<Known>>) {
        let version = self.version();
        (version, if self.has_any.load(Ordering::Acquire) { self.known.load_full() } else { None })
    }

    /// How often what is known has changed.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether whoever has taken what was known in this `version` has to ask, or to look again.
    #[inline]
    pub fn is_due(&self, version: u64, now: Moment) -> bool {
        self.has_changed() || self.version() != version || self.seconds(now) >= self.due.load(Ordering::Relaxed)
    }

    /// A turn to ask, where it is time to. Of those that ask because of the time alone there is one at a time.
    pub fn turn(&self, now: Moment) -> Option<Turn> {
        let changes = self.changes.load(Ordering::Acquire);
        let seconds = self.seconds(now);
        let later = |due: u64| (seconds >= due).then(|| seconds.saturating_add(GOOD_FOR));
        let is_time = self.has_changed() || self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).is_ok();
        is_time.then_some(Turn { changes, began: now })
    }

    /// Something may have changed them.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Puts down what a server has answered; without an answer, what was known has to do until it is asked again.
    pub fn learn(&self, turn: &Turn, known: Option<Known>, now: Moment) {
        if turn.changes < self.learned.load(Ordering::Acquire) {
            // Somebody who has asked later has been answered before.
            return;
        }
        let took = now.saturating_duration_since(turn.began);
        let good_for = if known.is_some() {
            self.unanswered.store(0, Ordering::Relaxed);
            took.saturating_mul(PATIENCE).as_secs().max(GOOD_FOR)
        } else {
            let before = self.unanswered.fetch_add(1, Ordering::Relaxed);
            let again = AGAIN.checked_shl(before).unwrap_or(GOOD_FOR).clamp(AGAIN, GOOD_FOR);
            took.saturating_mul(AGAIN_TIMES).as_secs().max(again)
        };
        self.due.store(self.seconds(now).saturating_add(good_for), Ordering::Relaxed);
        if let Some(known) = known
            && self.known.load().as_deref() != Some(&known)
        {
            let has_any = !known.is_empty();
            self.known.store(Some(Arc::new(known)));
            self.has_any.store(has_any, Ordering::Release);
            self.version.fetch_add(1, Ordering::AcqRel);
        }
        self.learned.fetch_max(turn.changes, Ordering::AcqRel);
    }

    fn has_changed(&self) -> bool {
        self.changes.load(Ordering::Acquire) != self.learned.load(Ordering::Acquire)
    }

    fn seconds(&self, now: Moment) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }
}

/// Somebody's turn to ask.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    changes: u64,
    began: Moment,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[(&str, &str)]) -> Known {
        let mut known = Known::default();
        for (name, setting) in names {
            add(&mut known.anywhere, name.as_bytes(), &Traces { settings: vec![setting.as_bytes().into()], is_hidden: false });
        }
        known
    }

    fn traces(known: &Known, text: &str) -> Option<String> {
        let found = known.traces(text.as_bytes())?;
        Some(found.settings.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_text_leaves_what_is_mentioned_in_it_leaves() {
        let known = known(&[("set_tenant", "app.tenant"), ("set_zone", "timezone"), ("Odd", "a")]);
        assert_eq!(traces(&known, "SELECT set_zone(x), SET_TENANT(1), set_zone(y)").as_deref(), Some("app.tenant timezone"));
        assert_eq!(traces(&known, "SELECT \"Odd\"()").as_deref(), Some("a"));
        assert_eq!(traces(&known, "SELECT odd(), 'set_zone' FROM t"), None);
    }

    #[test]
    fn who_calls_leaves_what_is_called_leaves() {
        let mut known = known(&[("f", "a")]);
        let calls = [(&b"f"[..], "g", "f"), (b"w", "fired", "g"), (b"r", "view", "fired"), (b"r", "view_of_f", "f"), (b"f", "h", "view")];
        for (how, caller, name) in calls {
            assert!(known.call(how, caller.as_bytes(), name.as_bytes()), "{caller}");
            assert!(!known.call(how, caller.as_bytes(), name.as_bytes()), "{caller} twice");
        }
        for text in ["SELECT g()", "TABLE view_of_f", "SELECT h()", "INSERT INTO fired VALUES (1)", "UPDATE view SET x = 1"] {
            assert_eq!(traces(&known, text).as_deref(), Some("a"), "{text}");
        }
        for text in ["SELECT * FROM fired", "SELECT * FROM view"] {
            assert_eq!(traces(&known, text), None, "{text}");
        }
    }

    #[test]
    fn all_ask_while_there_is_news_and_one_when_it_is_time() {
        let start = crate::net::now();
        let functions = Functions::new(start);
        let (none, turn) = (functions.version(), functions.turn(start).unwrap());
        assert!(functions.is_due(none, start) && functions.turn(start).is_some());
        functions.learn(&turn, Some(known(&[("a", "b")])), start);
        let (version, names) = functions.known();
        assert!(names.is_some() && functions.is_due(none, start) && !functions.is_due(version, start) && functions.turn(start).is_none());
        let later = start + Duration::from_secs(GOOD_FOR);
        let turn = functions.turn(later).unwrap();
        assert!(functions.turn(later).is_none());
        functions.learn(&turn, Some(known(&[("a", "b")])), later);
        assert_eq!(functions.version(), version, "nothing is new");
        functions.learn(&turn, None, later);
        assert!(functions.known().1.is_some(), "no answer is no news");
        let again = |seconds| functions.is_due(functions.version(), later + Duration::from_secs(seconds));
        assert!(!again(0) && again(1), "but it is asked again soon");
        functions.learn(&turn, None, later);
        assert!(!again(1) && again(2), "and twice as late each time");
        functions.changed();
        let (early, late) = (functions.turn(later).unwrap(), functions.turn(later).unwrap());
        functions.changed();
        functions.learn(&early, Some(Known::default()), later);
        assert!(functions.is_due(functions.version(), later), "what has changed since it was asked for may not be in the answer");
        functions.learn(&late, Some(Known::default()), later);
        let latest = functions.turn(later).unwrap();
        functions.learn(&latest, Some(Known::default()), later);
        functions.learn(&early, Some(known(&[("a", "b")])), later);
        assert!(functions.known().1.is_none(), "what came late is old");
        functions.changed();
        let took_two_seconds = functions.turn(later).unwrap();
        functions.learn(&took_two_seconds, Some(Known::default()), later + Duration::from_secs(2));
        assert!(functions.known().1.is_none());
        assert!(!functions.is_due(functions.version(), later + Duration::from_secs(401)));
        assert!(functions.is_due(functions.version(), later + Duration::from_secs(402)));
    }
}
