//! A client's settings travel in front of its words, in one packet, where the server connection that it gets has another client's. Checklist I1, I6.
//!
//! They are a transaction of their own. Where the server refuses it, the transaction stays open and has failed, so that the server says no to what is behind it,
//! and the client sees nothing of either: the server connection is closed, and the words go to another one, with a round trip for the settings first that shows what
//! is wrong with them. So only what a transaction that has failed refuses travels this way: one statement, or one batch of such.

use std::sync::Arc;

use bytes::BytesMut;

use super::client::Client;
use super::end::Stop;
use super::relay::{First, Relay};
use super::watch::Signal;
use crate::pool::Lease;
use crate::upstream::{Settings, State, in_own_transaction, note_reported};
use crate::wire::message::{self, Fields};
use crate::wire::scan::Side;
use crate::wire::{say, sql};

/// Settings that are not in force yet.
#[derive(Debug)]
pub struct Ahead {
    /// What the client has said behind them, as it said it.
    words: Vec<u8>,
    /// The client has changed its mind since.
    is_cancelled: bool,
}

impl Client {
    /// How the words that the client holds are to go out by this server connection.
    pub(super) fn first(&self, lease: &Lease) -> First {
        let has_others = !Arc::ptr_eq(&lease.server().state.settings, &self.settings);
        let goes_behind = has_others && !self.is_undone && !self.was_refused && self.channels.is_none();
        if goes_behind && self.needs_sound_transaction() { First::BehindSettings } else { First::Held }
    }

    /// Whether nothing comes of the words that the client holds where they meet a transaction that has failed, and they are all that a server is sent until it
    /// has answered.
    fn needs_sound_transaction(&self) -> bool {
        let (mut rest, mut texts) = (&*self.held, 0);
        while let Some((&[kind, _, _, _, _, ref body @ ..], behind)) = message::first(rest) {
            let text = match kind {
                b'Q' => return texts == 0 && behind.is_empty() && message::query(body).is_ok_and(sql::needs_sound_transaction),
                b'S' => return texts > 0 && behind.is_empty(),
                b'P' => message::parse(body).map(|(_, text)| text),
                b'B' => message::bind(body).map(|(_, name)| self.text_of(name)),
                b'D' | b'E' if texts > 0 => {
                    rest = behind;
                    continue;
                }
                _ => return false,
            };
            if !text.is_ok_and(|text| text.is_empty() && kind == b'B' && texts > 0 || sql::needs_sound_transaction(text)) {
                return false;
            }
            (rest, texts) = (behind, texts + 1);
        }
        false
    }

    /// The text of a statement that the client has prepared; empty where it has none of this name.
    pub(super) fn text_of(&self, name: &[u8]) -> &[u8] {
        if name.is_empty() {
            return self.unnamed.split(|byte| *byte == 0).next().unwrap_or_default();
        }
        self.names.text_of(name).unwrap_or_default()
    }
}

impl Relay<'_> {
    /// Sends a lease's first words on, with the client's settings in front of them.
    #[cold]
    pub(super) fn send_behind_settings(&mut self, words: &[u8]) -> Result<(), Stop> {
        let settings = Arc::clone(&self.client.settings);
        let state = &mut self.lease.server_mut().state;
        let change = Settings::transition(&state.settings, &settings);
        state.settings = settings;
        if change.is_empty() {
            return self.send_first(words);
        }
        let mut query = BytesMut::new();
        say::query_bytes(&mut query, &in_own_transaction(&change));
        self.to_server.extend_from_slice(&query);
        self.ahead = Some(Box::new(Ahead { words: words.to_vec(), is_cancelled: false }));
        let sent = self.send_first(words);
        let packet = std::mem::take(&mut self.to_server);
        if let Err(stop) = self.give_to_server(&packet) {
            if !self.server_has_bytes {
                self.take_words_back();
            }
            return Err(stop);
        }
        sent
    }

    /// What has come from the server while it had not said what it makes of the settings.
    #[cold]
    pub(super) fn answer_to_settings(&mut self, bytes: &[u8]) -> Result<bool, Stop> {
        let State { frames, reported, .. } = &mut *self.lease.server_mut().state;
        let mut walk = frames.walk(Side::Server, bytes);
        let (mut is_ready, mut refusal) = (false, None);
        while !is_ready && let Some(frame) = walk.next().map_err(|_| Stop::ServerLost)? {
            match frame.kind {
                b'S' if frame.is_whole() => note_reported(reported, frame.body),
                b'E' => refusal = Some(Fields::new(frame.body).is_fatal()),
                b'Z' => {
                    is_ready = true;
                    if frame.status != b'I' {
                        refusal = Some(false);
                    }
                }
                _ => {}
            }
        }
        let rest = &bytes[walk.position()..];
        if let Some(ends) = refusal {
            self.client.was_refused |= !ends;
            self.take_words_back();
            return Err(Stop::Unsent);
        }
        if !is_ready {
            return Ok(false);
        }
        self.ahead = None;
        self.say_due()?;
        if rest.is_empty() { Ok(false) } else { self.answer(rest) }
    }

    /// The client has said nothing yet, as far as any server knows.
    fn take_words_back(&mut self) {
        let Some(ahead) = self.ahead.take() else { return };
        self.client.held = ahead.words;
        self.end_edit();
        if ahead.is_cancelled {
            // What the server was told of that has met the settings.
            self.client.watch.tell(Signal::Cancel);
        }
    }

    /// The client wants none of what it has asked.
    pub(super) fn cancelled_ahead(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.is_cancelled = true;
        }
    }

    /// The lease ends before the server has said what it makes of the settings.
    #[inline]
    pub(super) fn leave_ahead(&mut self) {
        if self.ahead.take().is_some() {
            let state = &mut self.lease.server_mut().state;
            state.owed.sent_before();
            state.dirty = true;
        }
    }
}
