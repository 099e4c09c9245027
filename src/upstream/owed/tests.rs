//! The account against a model of a server, in any order of sending, answering and failing.

use super::*;
use proptest::prelude::*;

/// Sends and answers: `>` with message types; `<` with message types, where `i`, `+` and `-` are a ReadyForQuery of status I, T and E.
fn play(owed: &mut Owed, script: &str) {
    for step in script.split_whitespace() {
        let (side, kinds) = step.split_at(1);
        for kind in kinds.bytes() {
            match (side, kind) {
                (">", kind) => owed.sent(kind),
                ("<", b'i') => _ = owed.received(b'Z', b'I'),
                ("<", b'+') => _ = owed.received(b'Z', b'T'),
                ("<", b'-') => _ = owed.received(b'Z', b'E'),
                ("<", kind) => _ = owed.received(kind, 0),
                _ => panic!("a step is >SENT or <RECEIVED: {step}"),
            }
        }
    }
}

fn settled(script: &str) -> bool {
    let mut owed = Owed::default();
    play(&mut owed, script);
    assert!(!owed.is_doubtful(), "{script}");
    owed.is_settled()
}

#[test]
fn e1_the_status_decides() {
    assert!(settled(">Q <TDCi"));
    assert!(!settled(">Q <C+"));
    assert!(settled(">Q <C+ >Q <E- >Q <Ci"));
}

#[test]
fn c3_an_answer_to_the_first_of_two_does_not_settle() {
    assert!(!settled(">PBES >PBES <12Ci"));
    assert!(settled(">PBES >PBES <12Ci <12Ci"));
    assert!(!settled(">PBES >P <12Ci"));
}

#[test]
fn c5_a_flush_keeps_the_server() {
    assert!(!settled(">PDH <1tT"), "all is answered, but the statement lives there");
    assert!(settled(">PDH <1tT >BES <2Ci"));
    assert!(settled(">H"), "a Flush alone opens nothing");
}

#[test]
fn c1_an_error_discards_up_to_a_sync_that_has_not_arrived() {
    assert!(!settled(">PBE <E"));
    assert!(!settled(">PBE <E >PBE"));
    assert!(settled(">PBE <E >PBE >S <i"));
}

#[test]
fn c2_queries_behind_a_failed_extended_message_are_discarded_too() {
    assert!(settled(">PQS <Ei"), "the Query has no answer of its own");
    assert!(settled(">QQ <Ei <Ci"), "a Query's error discards nothing");
}

#[test]
fn c4_a_sync_alone_ends_no_transaction_that_a_query_shares_with_a_batch() {
    let doubtful = |script| {
        let mut owed = Owed::default();
        play(&mut owed, script);
        owed.is_doubtful()
    };
    assert!(doubtful(">PBE >Q <12DCTDC+ >S <i"));
    assert!(doubtful(">PBE >Q <12DCTDC+ >Q <TDC+ >S <i"));
    assert!(doubtful(">PBEQS <12DCTDC+ <i"));
    assert!(!doubtful(">PBEQS <12DCTDCi <i"), "the Query has ended it");
    assert!(!doubtful(">PBE >Q <12DCTDCi >S <i"));
    assert!(!doubtful(">PBE >Q <12DCTDC+ >Q <Ci >S <i"), "a COMMIT has");
    assert!(!doubtful(">PBE >Q <12DCTDC+ >PBES <12DCi"), "what is executed goes on with it");
    assert!(!doubtful(">Q <C+ >S <+"), "a transaction of its own");
}

#[test]
fn f1_a_copy_eats_the_sync_that_came_with_its_execute() {
    assert!(!settled(">PBES <12G"));
    assert!(!settled(">PBES <12G >ddcS <C"));
    assert!(settled(">PBES <12G >ddcS <Ci"));
    assert!(settled(">PBEdcS <12GCi"), "all of it before the server has said a word");
}

#[test]
fn f2_late_copy_data_creates_no_debt() {
    assert!(settled(">Q <G >d <Ei >dc"));
    assert!(settled(">PBE <12G >d <E >dcS <i"));
}

#[test]
fn f2_a_sync_that_may_or_may_not_have_been_eaten_makes_the_account_doubtful() {
    let mut owed = Owed::default();
    play(&mut owed, ">PBES <12G >dS <E");
    assert!(owed.is_doubtful());
}

#[test]
fn c11_two_copies_in_one_query() {
    assert!(settled(">Q <G >dc <C <G >dc <Ci"));
    assert!(settled(">Qdcdc <GCGCi"));
}

#[test]
fn c6_c7_other_endings_of_an_execute() {
    assert!(settled(">BEEES <2sIDCi"));
    assert!(settled(">PDBDES <1tn2nIi"));
}

/// A noted Parse, a local answer, a Bind, another local answer; then the client's Sync.
fn with_notes() -> Owed {
    let mut owed = Owed::default();
    owed.sent_noted();
    owed.answer_locally();
    owed.sent(b'B');
    owed.answer_locally();
    owed.sent(b'S');
    owed
}

#[test]
fn d2_a_local_answer_has_its_turn_among_the_others() {
    let mut owed = with_notes();
    assert!(!owed.take_local(), "the Parse before it is not answered");
    assert_eq!(owed.received(b'1', 0), Answer::Ends);
    assert!(owed.take_local() && !owed.take_local());
    assert_eq!(owed.received(b'2', 0), Answer::Passes);
    assert!(owed.take_local() && !owed.take_local());
    assert_eq!(owed.take_dropped(), 0);
    owed.received(b'Z', b'I');
    assert!(owed.is_settled());
}

#[test]
fn f2_the_late_end_of_a_copy_holds_no_local_answer_up() {
    for script in [">Q <G <E >dc <i", ">Q <G <E >dc", ">PBES <12G <E >dcS <ii"] {
        let mut owed = Owed::default();
        play(&mut owed, script);
        owed.answer_locally();
        owed.sent(b'S');
        if !script.ends_with('i') {
            assert!(!owed.take_local(), "{script}");
            owed.received(b'Z', b'I');
        }
        assert!(owed.take_local(), "{script}");
    }
}

#[test]
fn d4_an_error_drops_what_was_noted_behind_it() {
    let mut owed = with_notes();
    assert_eq!(owed.received(b'E', 0), Answer::Fails);
    assert_eq!((owed.take_dropped(), owed.take_dropped()), (3, 0), "the Parse itself, and both local answers");
    let mut owed = with_notes();
    owed.received(b'1', 0);
    assert!(owed.take_local());
    assert_eq!(owed.received(b'E', 0), Answer::Passes, "the Bind's");
    assert_eq!(owed.take_dropped(), 1);
    owed.received(b'Z', b'I');
    assert!(owed.is_settled() && owed.take_dropped() == 0);
}

#[test]
fn e3_what_a_client_that_has_left_had_noted_is_nobodys() {
    let mut owed = Owed::default();
    owed.answer_locally();
    owed.sent_noted();
    owed.sent(b'S');
    owed.sent(b'Q');
    owed.forget_notes();
    assert_eq!(owed.received(b'E', 0), Answer::Passes, "nobody is to hear of it");
    assert_eq!(owed.take_dropped(), 0);
    owed.received(b'Z', b'I');
    assert!(owed.owes(), "the Query behind it has not been dropped");
    owed.received(b'Z', b'I');
    assert!(owed.is_settled() && !owed.is_doubtful());

    let mut owed = with_notes();
    owed.received(b'E', 0);
    owed.forget_notes();
    assert_eq!(owed.take_dropped(), 0);
}

/// A server that answers as PostgreSQL does, its failures drawn from `luck`.
#[derive(Default)]
struct Model {
    copying: Option<bool>,
    skipping: bool,
    open_batch: bool,
    status: u8,
    lost: bool,
    replies: VecDeque<(u8, u8)>,
}

impl Model {
    fn is_quiet(&self) -> bool {
        self.copying.is_none() && !self.skipping && !self.open_batch && matches!(self.status, 0 | b'I') && self.replies.is_empty()
    }

    fn say(&mut self, kinds: &[u8]) {
        self.replies.extend(kinds.iter().map(|kind| (*kind, 0)));
    }

    fn ready(&mut self, luck: u8) {
        self.status = [b'I', b'I', b'T', b'E'][usize::from(luck % 4)];
        self.replies.push_back((b'Z', self.status));
    }

    /// An error: a Query is over with it, an extended message discards up to Sync.
    fn fail(&mut self, simple: bool, luck: u8) {
        self.copying = None;
        self.say(b"E");
        if simple { self.ready(luck) } else { self.skipping = true }
    }

    fn take(&mut self, kind: u8, luck: u8) {
        if let Some(simple) = self.copying {
            match kind {
                b'd' if luck.is_multiple_of(8) => self.fail(simple, luck / 8),
                b'd' | b'S' | b'H' => {}
                b'f' => self.fail(simple, luck),
                b'c' => {
                    self.copying = None;
                    self.say(b"C");
                    if simple {
                        self.ready(luck);
                    }
                }
                _ => self.lost = true,
            }
            return;
        }
        match kind {
            b'S' => {
                self.skipping = false;
                self.open_batch = false;
                if luck.is_multiple_of(16) {
                    self.say(b"E");
                }
                self.ready(luck / 16);
            }
            _ if self.skipping => {}
            b'Q' => {
                self.open_batch = false;
                match luck % 8 {
                    0 => self.fail(true, luck / 8),
                    1 => self.begin_copy(true, luck / 8),
                    2 => {
                        self.say(b"HdddcC");
                        self.ready(luck / 8);
                    }
                    _ => {
                        self.say(b"TDDCTDC");
                        self.ready(luck / 8);
                    }
                }
            }
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                self.open_batch = true;
                match (kind, luck % 8) {
                    (_, 0) => self.fail(false, 0),
                    (b'P', _) => self.say(b"1"),
                    (b'B', _) => self.say(b"2N"),
                    (b'C', _) => self.say(b"3"),
                    (b'D', 1..=3) => self.say(b"tT"),
                    (b'D', _) => self.say(b"n"),
                    (_, 1) => self.begin_copy(false, luck / 8),
                    (_, 2) => self.say(b"I"),
                    (_, 3) => self.say(b"DDs"),
                    (_, 4) => self.say(b"HdcC"),
                    _ => self.say(b"DDC"),
                }
            }
            _ => {}
        }
    }

    fn begin_copy(&mut self, simple: bool, luck: u8) {
        self.say(b"G");
        self.copying = Some(simple);
        if luck.is_multiple_of(8) {
            self.fail(simple, luck / 8);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Settled means that nothing is on its way, whatever was sent in whatever order; and when nothing is on its way, it is settled.
    #[test]
    fn settled_is_true_exactly_when_the_server_is_quiet(
        messages in prop::collection::vec((prop::sample::select(&b"QQPBDECSSSHdddccf"[..]), any::<u8>()), 1..30),
        order in prop::collection::vec(0u8..3, 0..200),
    ) {
        let mut owed = Owed::default();
        let mut server = Model::default();
        let mut to_send: VecDeque<_> = messages.into();
        let mut in_flight: VecDeque<(u8, u8)> = VecDeque::new();
        let mut order = order.into_iter().chain(std::iter::repeat_n([2, 1, 0], 500).flatten());
        while !(to_send.is_empty() && in_flight.is_empty() && server.replies.is_empty()) {
            match order.next() {
                Some(0) => if let Some((kind, luck)) = to_send.pop_front() {
                    owed.sent(kind);
                    in_flight.push_back((kind, luck));
                },
                Some(1) => if let Some((kind, luck)) = in_flight.pop_front() {
                    server.take(kind, luck);
                },
                Some(_) => if let Some((kind, status)) = server.replies.pop_front() {
                    let _ = owed.received(kind, status);
                },
                None => break,
            }
            if server.lost {
                return Ok(());
            }
            let only_copy_left_overs = in_flight.iter().all(|(kind, _)| matches!(kind, b'd' | b'c' | b'f' | b'H')) && server.copying.is_none();
            if owed.is_settled() && !owed.is_doubtful() {
                prop_assert!(only_copy_left_overs && server.is_quiet(), "settled while {in_flight:?} is on its way");
            }
        }
        if server.is_quiet() && !owed.is_doubtful() {
            prop_assert!(owed.is_settled(), "quiet, and not settled: {owed:?}");
        }
    }
}
