//! The time that a client's caller has left: how the client says so, and what becomes of a transaction whose time was over.
//!
//! `SET pgweir.deadline_ms = N` is answered here, without a server: what is to bound the wait for one must not wait for one. In the middle of a transaction or
//! of a batch the server answers in its place, by a statement that changes nothing.

use std::time::Duration;

use bytes::BytesMut;

use super::client::Client;
use super::watch::Deadline;
use crate::config::PoolMode;
use crate::fault::Fault;
use crate::net::{Moment, now, since_1970};
use crate::pool::{Lease, with_scratch};
use crate::upstream::Broken;
use crate::wire::sql::{self, Effects, Term};
use crate::wire::{Status, message, say};

/// So many of a client's prepared statements that set its deadline are remembered.
const OWN: usize = 64;

/// Begins a transaction and has it fail: what a client finds whose own was undone.
const FAIL: &[u8] = b"BEGIN; ROLLBACK TO SAVEPOINT \"the client's deadline has passed\"";

/// A client's prepared statements that do nothing but set its deadline.
#[derive(Debug, Default)]
pub struct Own {
    statements: Vec<(Box<[u8]>, OwnStatement)>,
    /// The unnamed portal, where its Bind was answered here.
    portal: Option<Portal>,
}

/// What it says of the deadline, and the tag of its command.
#[derive(Clone, Copy, Debug)]
struct OwnStatement {
    term: Term,
    tag: &'static str,
}

#[derive(Debug)]
struct Portal {
    statement: OwnStatement,
    has_run: bool,
}

impl Own {
    fn find(&self, name: &[u8]) -> Option<OwnStatement> {
        self.statements.iter().find(|(known, _)| **known == *name).map(|(_, statement)| *statement)
    }

    /// A name means something else now.
    fn forget(&mut self, name: &[u8]) {
        self.statements.retain(|(known, _)| **known != *name);
    }

    fn add(&mut self, name: &[u8], statement: OwnStatement) {
        self.forget(name);
        if self.statements.len() >= OWN {
            self.statements.remove(0);
        }
        self.statements.push((name.into(), statement));
    }
}

/// A message as the server is to have it: the same but for the statements at the beginning of its text that are the proxy's.
pub struct Neutral {
    /// The message, from its type byte on.
    pub bytes: Vec<u8>,
    /// The body of the message without such statements: what it does apart from them.
    pub rest: Vec<u8>,
    /// What they say.
    pub term: Term,
    /// The tag of the last one's command.
    tag: &'static str,
    /// Its text has nothing else.
    pub is_all: bool,
}

/// The same for a Query or Parse that begins with such statements.
#[cold]
pub fn neutral(kind: u8, body: &[u8]) -> Option<Neutral> {
    let (head, text, tail) = match kind {
        b'Q' => (&[][..], message::query(body).ok()?, &[0][..]),
        b'P' => {
            let (name, text) = message::parse(body).ok()?;
            (&body[..=name.len()], text, &body[name.len() + 1 + text.len()..])
        }
        _ => return None,
    };
    let terms = sql::terms(text)?;
    let neutral = terms.tags.iter().map(|tag| sql::neutral(tag)).collect::<Vec<_>>().join(&b"; "[..]);
    let between: &[u8] = if terms.is_all { b"" } else { b"; " };
    let rest = [head, &text[terms.end..], tail].concat();
    let body = [head, &neutral, between, &text[terms.end..], tail].concat();
    let tag = terms.tags.last().copied().unwrap_or_default();
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes();
    Some(Neutral { bytes: [&[kind][..], &length, &body].concat(), rest, term: terms.term, tag, is_all: terms.is_all })
}

/// Whether a message begins with such statements.
#[inline]
pub fn has_terms(kind: u8, body: &[u8]) -> bool {
    text_of(kind, body).is_some_and(|text| sql::terms(text).is_some())
}

/// Whether the statement of a Parse takes parameters, or may: only a server can tell what becomes of one that sets a deadline.
fn declares_types(body: &[u8]) -> bool {
    message::definition(body).is_none_or(|(_, definition)| !matches!(definition, [text @ .., 0, 0, 0] if !text.contains(&0)))
}

/// The text of a Query or Parse that is whole.
#[inline]
fn text_of(kind: u8, body: &[u8]) -> Option<&[u8]> {
    match kind {
        b'Q' => message::query(body).ok(),
        b'P' => message::parse(body).ok().map(|(_, text)| text),
        _ => None,
    }
}

impl Client {
    /// The status that the client stands in between two leases.
    pub(super) fn status(&self) -> Status {
        if self.is_undone { Status::Failed } else { Status::Idle }
    }

    /// Takes note of what a text says.
    ///
    /// # Errors
    /// A value that is none.
    pub(super) fn heed_term(&mut self, term: Term) -> Result<(), Fault> {
        let at = now();
        let left = match term {
            Term::In(left) => left,
            Term::At(time) => time.saturating_sub(since_1970()),
            Term::Never => {
                self.watch.set_deadline(Deadline::None);
                return Ok(());
            }
            Term::Invalid => return Err(Fault::BadDeadline),
        };
        // Beyond what the clock can tell it is no deadline.
        let ends = at.checked_add(left).map_or(Deadline::None, Deadline::At);
        self.watch.set_deadline(if left.is_zero() { Deadline::Over } else { ends });
        Ok(())
    }

    /// Answers a whole message at the front that is about the client's deadline and nothing else; false where it is for a server. What is left of a text behind such
    /// statements takes their place in what is held.
    pub(super) fn answer_terms(&mut self, kind: u8, total: usize, out: &mut BytesMut) -> bool {
        let Some(body) = self.held.get(5..total) else { return false };
        match kind {
            b'Q' => {
                let Some((text, terms)) = message::query(body).ok().and_then(|text| Some((text, sql::terms(text)?))) else { return false };
                let rest = text[terms.end..].to_vec();
                // It takes the place of the unnamed statement and portal.
                self.unnamed = Vec::new();
                self.hand_over_unnamed();
                if let Err(fault) = self.heed_term(terms.term) {
                    self.count(&fault);
                    fault.say(out, true);
                    say::ready(out, self.status());
                    self.held.drain(..total);
                    return true;
                }
                terms.tags.iter().for_each(|tag| say::complete(out, tag));
                self.held.drain(..total);
                if terms.is_all {
                    say::ready(out, self.status());
                    return true;
                }
                let mut query = BytesMut::new();
                say::query_bytes(&mut query, &rest);
                self.held.splice(..0, query);
                false
            }
            b'P' => self.parse_term(total, out),
            b'B' => {
                let Ok((portal, name)) = message::bind(body) else { return false };
                // A portal with a name is a server's, which knows what else has it.
                let is_plain = portal.is_empty() && message::binds_no_values(body);
                let Some(statement) = self.own_statement(name).filter(|_| is_plain) else { return false };
                self.own.get_or_insert_default().portal = Some(Portal { statement, has_run: false });
                self.answered_here(total, out, &[(b'2', &[])])
            }
            b'D' => {
                let Ok((what, name)) = message::describe(body) else { return false };
                match (what, &self.own) {
                    (b'S', Some(_)) if self.own_statement(name).is_some() => {
                        self.answered_here(total, out, &[(b't', &[0, 0]), (b'n', &[])])
                    }
                    (b'P', Some(own)) if name.is_empty() && own.portal.is_some() => self.answered_here(total, out, &[(b'n', &[])]),
                    _ => false,
                }
            }
            b'E' => self.execute_term(total, out),
            b'C' => {
                let Ok((what, name)) = message::describe(body) else { return false };
                let is_own = what == b'P' && name.is_empty() && self.own.as_mut().and_then(|own| own.portal.take()).is_some();
                if what == b'S'
                    && let Some(own) = &mut self.own
                {
                    // The name has a statement on a server, too: that is dropped as any other.
                    own.forget(name);
                }
                is_own && self.answered_here(total, out, &[(b'3', &[])])
            }
            _ => false,
        }
    }

    /// A Parse: of a statement that only sets the deadline, or of another that takes its name.
    fn parse_term(&mut self, total: usize, out: &mut BytesMut) -> bool {
        if self.watch.pool.mode == PoolMode::Session {
            // Its server is going to be asked about the name.
            return false;
        }
        let body = &self.held[5..total];
        let Ok((name, text)) = message::parse(body) else { return false };
        let terms = sql::terms(text).filter(|terms| terms.is_all && terms.tags.len() == 1 && !declares_types(body));
        let Some(terms) = terms.filter(|_| name.is_empty() || !self.names.has(name)) else {
            if let Some(own) = &mut self.own {
                own.forget(name);
            }
            return false;
        };
        let (name, statement) = (name.to_vec(), OwnStatement { term: terms.term, tag: terms.tags[0] });
        let definition = [sql::neutral(statement.tag), &[0, 0, 0]].concat();
        if name.is_empty() {
            self.unnamed = definition;
        } else {
            let pool = &self.watch.pool;
            let statement = pool.statements.intern(&self.settings.context_of(&definition), &definition, |_| Effects::default());
            self.names.learn(&name, statement);
        }
        self.own.get_or_insert_default().add(&name, statement);
        self.answered_here(total, out, &[(b'1', &[])])
    }

    fn execute_term(&mut self, total: usize, out: &mut BytesMut) -> bool {
        let Ok((b"", _)) = message::execute(&self.held[5..total]) else { return false };
        let Some(portal) = self.own.as_mut().and_then(|own| own.portal.as_mut()) else { return false };
        let (statement, has_run) = (portal.statement, std::mem::replace(&mut portal.has_run, true));
        self.held.drain(..total);
        let heeded = if has_run { Err(Fault::PortalRun) } else { self.heed_term(statement.term) };
        match heeded {
            Ok(()) => say::complete(out, statement.tag),
            Err(fault) => {
                self.count(&fault);
                fault.say(out, true);
                self.discard();
            }
        }
        true
    }

    fn answered_here(&mut self, total: usize, out: &mut BytesMut, frames: &[(u8, &[u8])]) -> bool {
        for (kind, body) in frames {
            say::frame(out, *kind, body);
        }
        self.held.drain(..total);
        true
    }

    /// The statement of this name, where it does nothing but set the deadline.
    fn own_statement(&self, name: &[u8]) -> Option<OwnStatement> {
        let own = self.own.as_ref()?;
        let text = if name.is_empty() { message::string(&self.unnamed).ok() } else { self.names.text_of(name) };
        // One that was refused has left the name to another.
        own.find(name).filter(|_| text.is_some_and(sql::is_neutral))
    }

    /// Takes note of a message in the middle of a lease whose statement is, or was, one of these. What such a Parse says of the deadline is heeded at once, for its
    /// Execute stands behind it; a Bind says it again.
    ///
    /// # Errors
    /// A value that is none.
    #[cold]
    pub(super) fn note_own(&mut self, kind: u8, body: &[u8], neutral: Option<&Neutral>) -> Result<(), Fault> {
        if let Some(neutral) = neutral {
            self.heed_term(neutral.term)?;
        }
        match (kind, &mut self.own) {
            (b'P', own) => {
                let Ok((name, _)) = message::parse(body) else { return Ok(()) };
                if !name.is_empty() && self.names.has(name) {
                    // It is going to be refused.
                    return Ok(());
                }
                match neutral.filter(|neutral| neutral.is_all && !declares_types(body)) {
                    Some(Neutral { term, tag, .. }) => own.get_or_insert_default().add(name, OwnStatement { term: *term, tag }),
                    None => own.iter_mut().for_each(|own| own.forget(name)),
                }
            }
            (b'B', Some(_)) => {
                let Ok((_, name)) = message::bind(body) else { return Ok(()) };
                if let Some(statement) = self.own_statement(name).filter(|_| message::binds_no_values(body)) {
                    self.heed_term(statement.term)?;
                }
            }
            (b'C', Some(own)) => {
                if let [b'S', name @ .., 0] = body {
                    own.forget(name);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A lease begins: what becomes of the unnamed statement is its business.
    pub(super) fn hand_over_unnamed(&mut self) {
        if let Some(own) = &mut self.own {
            own.forget(b"");
            own.portal = None;
        }
    }

    /// A batch has ended, and the portal with it.
    pub(super) fn drop_portal(&mut self) {
        if let Some(own) = &mut self.own {
            own.portal = None;
        }
    }

    /// The time that the text at the front of these bytes leaves, by a comment.
    #[inline]
    pub(super) fn told(&self, bytes: &[u8]) -> Option<Duration> {
        let &[kind, a, b, c, d] = bytes.first_chunk::<5>()?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let body = bytes.get(5..length + 1)?;
        match kind {
            b'B' if !self.names.is_empty() => {
                let name = message::bind(body).ok()?.1;
                sql::comment(self.names.text_of(name)?)
            }
            _ => sql::comment(text_of(kind, body)?),
        }
    }

    /// When the time is over for what the client wants now.
    ///
    /// # Errors
    /// It is over.
    #[inline]
    pub(super) fn time_left(&self, in_scratch: Option<usize>, began: Moment) -> Result<Option<Moment>, ()> {
        let told = match in_scratch {
            Some(count) => with_scratch(|scratch| self.told(&scratch[..count])),
            None => self.told(&self.held),
        };
        self.watch.until(began, told, began)
    }

    /// Brings a server connection to where the client stands: in a transaction that has failed.
    pub(super) async fn fail_as_before(lease: &mut Lease) -> Result<(), Broken> {
        // The error is what it is for.
        lease.server_mut().run(FAIL).await.map(drop)
    }

    /// Answers the end of a transaction that is undone already; false where the message at the front is something else.
    pub(super) fn ends_undone(&mut self, kind: u8, total: usize, out: &mut BytesMut) -> bool {
        let ends = kind == b'Q' && message::query(&self.held[5..total]).is_ok_and(sql::only_ends_transaction);
        if ends {
            self.is_undone = false;
            self.held.drain(..total);
            say::complete(out, "ROLLBACK");
            say::ready(out, Status::Idle);
        }
        ends
    }
}
