//! Texts that speak of prepared statements by name: EXECUTE, PREPARE, DEALLOCATE, and the view that lists them. Pure.
//!
//! A server is told its own names in place of the client's, and what it answers about them is turned back (checklist D8).

use std::ops::Range;

use super::{Clerk, NOBODYS, Piece, Rewritten};
use crate::session::said::Moves;
use crate::upstream::{SERVER_NAME, ServerName};
use crate::wire::sql::{self, Effects, Mention};

/// A client with more statements than this is not shown those that are not on its server, in a list of them.
const LISTED: usize = 1000;

/// What a server is told in place of a text.
#[derive(Debug, Default)]
struct Told {
    text: Vec<u8>,
    moves: Moves,
    /// The client's statements that it drops; `None` for one that only the server knows.
    drops: Vec<Option<Box<[u8]>>>,
    /// Statements that were prepared for it and are to be closed behind it.
    stand_ins: Vec<ServerName>,
}

impl Clerk<'_> {
    /// A Query or an unnamed Parse whose text speaks of statements.
    pub(super) fn speak(&mut self, kind: u8, piece: Piece<'_>, text: &[u8]) -> Rewritten {
        let mentions = sql::spoken(text);
        if mentions.iter().any(|(_, mention)| mention.name().is_some_and(|name| self.is_unsettled(name))) {
            return Rewritten::Later;
        }
        if let Some(name) = self.dropped_by(text, &mentions) {
            self.deallocate(kind, name);
            return Rewritten::Speaks;
        }
        if kind == b'Q' && !self.has_prepared && self.lacks(&mentions) {
            if self.owed.owes() {
                return Rewritten::Later;
            }
            self.told(text, &mentions);
            self.out.extend_from_slice(b"S\0\0\0\x04");
            self.owed.sent(b'S');
            return Rewritten::Prepares;
        }
        for (_, mention) in &mentions {
            if let Mention::Makes(name) = mention
                && !self.names.has(name)
                && !name.starts_with(SERVER_NAME)
            {
                self.names.made_by_text(name);
            }
        }
        let Some(Told { text: instead, moves, drops, .. }) = self.told(text, &mentions) else {
            self.pass(piece);
            return Rewritten::Speaks;
        };
        let skipped = usize::from(kind == b'P');
        let rest = piece.bytes.get(skipped.saturating_add(5).saturating_add(text.len())..).unwrap_or_default();
        let at = self.begin(kind);
        if kind == b'P' {
            self.out.push(0);
        }
        self.out.extend_from_slice(&instead);
        self.out.extend_from_slice(rest);
        self.end(at);
        self.sent(kind);
        self.remember_moves(kind, moves);
        if kind == b'Q' {
            for dropped in drops {
                self.notes.deallocates(self.place(kind), dropped);
            }
        }
        Rewritten::Speaks
    }

    /// The one of the client's statements that a text drops which does nothing else.
    pub(super) fn dropped_by<'b>(&self, text: &[u8], mentions: &'b [(Range<usize>, Mention)]) -> Option<&'b [u8]> {
        let [(_, Mention::Drops(name))] = mentions else { return None };
        (self.names.has(name) && sql::statements(text).count() == 1).then_some(&**name)
    }

    /// What the Parse of a client's statement says behind the name, where the server is to be told something else.
    pub(super) fn spoken(&mut self, definition: &[u8], effects: Effects) -> Option<Vec<u8>> {
        if !effects.mentions_statements() {
            return None;
        }
        let text = definition.get(..memchr::memchr(0, definition)?)?;
        let told = self.told(text, &sql::spoken(text))?;
        self.remember_moves(b'P', told.moves);
        Some([&told.text[..], definition.get(text.len()..)?].concat())
    }

    /// Whether a text speaks of statements of the client's that are not on this server.
    fn lacks(&mut self, mentions: &[(Range<usize>, Mention)]) -> bool {
        let (names, prepared) = (&*self.names, &mut *self.prepared);
        let mut gone = Vec::new();
        mentions.iter().any(|(_, mention)| match mention {
            Mention::Runs(name) if gone.contains(&name) => false,
            Mention::Runs(name) => names.find(name).is_some_and(|statement| prepared.find(statement.id()).is_none()),
            Mention::Lists(_) => {
                names.iter().count() <= LISTED && names.iter().any(|(_, statement)| prepared.find(statement.id()).is_none())
            }
            Mention::Makes(name) | Mention::Drops(name) => {
                gone.push(name);
                false
            }
        })
    }

    /// What the server is told in place of a text, and how that differs; `None` where it is the same. What the text speaks of is there afterwards.
    fn told(&mut self, text: &[u8], mentions: &[(Range<usize>, Mention)]) -> Option<Told> {
        // Where the reader cannot tell which, it may be any.
        if mentions.is_empty() || sql::session_state(text).lists_statements() {
            self.close_others();
        }
        let (mut told, mut gone, mut at) = (Told::default(), Vec::new(), 0);
        for (place, mention) in mentions {
            let new = match mention {
                Mention::Lists(alias) => self.listed(*alias),
                Mention::Runs(name) | Mention::Makes(name) | Mention::Drops(name) => self.said_of(mention, name, &mut told, &mut gone),
            };
            let Some(new) = new else { continue };
            told.text.extend_from_slice(text.get(at..place.start)?);
            told.moves.replace(&told.text, &new, text.get(place.clone())?, matches!(mention, Mention::Lists(_)));
            told.text.extend_from_slice(&new);
            at = place.end;
        }
        for stand_in in &told.stand_ins {
            self.prepared.doom_again(*stand_in);
        }
        told.text.extend_from_slice(text.get(at..)?);
        (at > 0).then_some(told)
    }

    /// What the server is told where a text mentions a statement by name. Of statements that are to be dropped, or that are in the way of what is to be made, it is told
    /// others that stand in for them; `gone` are those that the text has dropped before, which are the server's own once they are made anew.
    fn said_of(
        &mut self,
        mention: &Mention,
        name: &[u8],
        told: &mut Told,
        gone: &mut Vec<(Vec<u8>, Option<ServerName>)>,
    ) -> Option<Vec<u8>> {
        let is_drop = matches!(mention, Mention::Drops(_));
        let before = gone.iter_mut().find(|(known, _)| known == name);
        let is_own = !before.as_ref().is_some_and(|(_, stand_in)| stand_in.is_none()) && self.names.has(name);
        if is_drop {
            told.drops.push(is_own.then(|| name.into()));
        }
        let server_name = match before {
            Some((_, stand_in)) if !is_drop => {
                if matches!(mention, Mention::Makes(_)) {
                    *stand_in = None;
                }
                return None;
            }
            Some((_, stand_in)) => (*stand_in)?,
            None => match self.names.find(name).cloned() {
                // The server says itself that there is none, unless the name is one of ours.
                None => return name.starts_with(SERVER_NAME).then(|| sql::quoted_name(NOBODYS)),
                Some(statement) if matches!(mention, Mention::Runs(_)) => self.name_here(&statement),
                Some(_) => {
                    let stand_in = self.name_once(&[0, 0, 0]);
                    told.stand_ins.push(stand_in);
                    gone.push((name.to_vec(), Some(stand_in)));
                    stand_in
                }
            },
        };
        told.moves.rename(&server_name.written(), name);
        Some(sql::quoted_name(&server_name.written()))
    }

    /// The view of the prepared statements as its client is to see it: its own, by its own names.
    fn listed(&mut self, alias: Option<&str>) -> Option<Vec<u8>> {
        if self.names.is_empty() {
            return None;
        }
        let mut own: Vec<_> = self.names.iter().map(|(name, statement)| (name.to_vec(), statement.clone())).collect();
        own.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut pairs = Vec::new();
        for (name, statement) in &own {
            let server_name = if own.len() <= LISTED { Some(self.name_here(statement)) } else { self.prepared.find(statement.id()) };
            if let Some(server_name) = server_name {
                pairs.push([b"('", &server_name.written()[..], b"', ", &sql::quoted_literal(name), b")"].concat());
            }
        }
        let mut view = b"(SELECT (pg_catalog.json_populate_record(l, pg_catalog.json_build_object('name', coalesce(o.own, l.name)))).* \
            FROM pg_catalog.pg_prepared_statements AS l LEFT JOIN (VALUES "
            .to_vec();
        view.extend(pairs.join(&b", "[..]));
        view.extend([&b") AS o (server, own) ON l.name OPERATOR(pg_catalog.=) o.server WHERE o.own IS NOT NULL OR NOT pg_catalog.starts_with(l.name, '"[..], SERVER_NAME, b"'))"].concat());
        if let Some(alias) = alias {
            view.extend([b" AS ", alias.as_bytes()].concat());
        }
        Some(view)
    }

    /// Errors that the message with this text meets are told in the client's words.
    pub(super) fn remember_moves(&mut self, kind: u8, moves: Moves) {
        self.notes.moves(self.place(kind), moves);
    }
}
