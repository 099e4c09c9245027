//! What the inspector reads of a client's stream, in one piece and in any pieces.

use super::*;
use proptest::prelude::*;

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    frame(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

fn bind(statement: &str) -> Vec<u8> {
    frame(b'B', format!("\0{statement}\0\0\0\0\0\0\0").as_bytes())
}

fn query(text: &str) -> Vec<u8> {
    frame(b'Q', format!("{text}\0").as_bytes())
}

fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

fn read(inspector: &mut Inspector, messages: &[Vec<u8>]) -> (Verdict, String) {
    let mut sent = String::new();
    let verdict = inspector.read(&messages.concat(), Turn::default(), |kind| sent.push(char::from(kind)));
    (verdict, sent)
}

#[test]
fn ordinary_traffic_leaves_nothing_behind() {
    let mut inspector = Inspector::default();
    let messages = [parse("", "UPDATE t SET x = 1"), bind(""), frame(b'E', b"\0\0\0\0\0"), sync(), query("SELECT 1")];
    let (verdict, sent) = read(&mut inspector, &messages);
    assert_eq!((verdict, sent.as_str()), (Verdict::Forward(messages.concat().len()), "PBESQ"));
    assert_eq!((inspector.pin(), inspector.is_dirty(), inspector.at_edge()), (None, false, true));
}

#[test]
fn what_the_text_says_pins() {
    let cases =
        [(query("SELECT set_config($1, $2, false)"), Pin::Sql(PinReason::Setting)), (parse("", "LISTEN x"), Pin::Sql(PinReason::Listen))];
    for (message, pin) in cases {
        let mut inspector = Inspector::new(true);
        read(&mut inspector, &[message]);
        assert_eq!((inspector.pin(), inspector.may_be_dirty()), (Some(pin), true));
    }
    let mut session = Inspector::new(false);
    assert_eq!(read(&mut session, &[parse("s1", "SELECT 1"), bind("s1")]).1, "PB");
    assert_eq!(session.pin(), Some(Pin::Statement));
    assert_eq!(Pin::Statement.label(), "statement");
    assert_eq!(Pin::Unnamed.label(), "unnamed_statement");
}

#[test]
fn i3_settings_with_a_name_do_not_pin() {
    let mut inspector = Inspector::new(true);
    read(&mut inspector, &[query("SET search_path = a"), query("RESET ALL")]);
    assert_eq!((inspector.pin(), inspector.is_dirty(), inspector.wants_examination()), (None, false, true));
    let touched = inspector.take_examination().touched.unwrap();
    assert_eq!((touched.set_before.len(), touched.resets_all, inspector.wants_examination()), (1, true, false));
    let mut session = Inspector::new(false);
    read(&mut session, &[query("SET search_path = a")]);
    assert_eq!((session.pin(), session.is_dirty()), (Some(Pin::Sql(PinReason::Setting)), true));
}

#[test]
fn i7_a_pin_is_looked_into_where_it_may_have_ended() {
    let mut inspector = Inspector::new(true);
    read(&mut inspector, &[query("LISTEN x")]);
    assert_eq!((inspector.pin(), inspector.wants_examination()), (Some(Pin::Sql(PinReason::Listen)), false));
    read(&mut inspector, &[query("SELECT 1")]);
    assert!(!inspector.wants_examination() && inspector.may_be_dirty());
    read(&mut inspector, &[query("UNLISTEN *")]);
    assert!(inspector.wants_examination());
    let examination = inspector.take_examination();
    assert!(examination.asks_for_pins && examination.pins.not_asked().is_empty());

    // No question tells of a sequence; a text may.
    let mut inspector = Inspector::new(true);
    read(&mut inspector, &[query("SELECT lastval()"), query("SELECT 1")]);
    assert!(!inspector.wants_examination());
    read(&mut inspector, &[query("DISCARD SEQUENCES")]);
    assert!(inspector.wants_examination());
    let mut inspector = Inspector::new(true);
    read(&mut inspector, &[query("SELECT lastval()"), query("SELECT 1/0")]);
    inspector.failed();
    assert!(inspector.wants_examination(), "what comes behind it is certain again");
    read(&mut inspector, &[query("DISCARD SEQUENCES")]);
    let Examination { pins, cleared, .. } = inspector.take_examination();
    assert!(pins.without(cleared).is_empty());
    read(&mut inspector, &[query("SELECT lastval()")]);
    let Examination { pins, cleared, .. } = inspector.take_examination();
    assert_eq!(pins.without(cleared).first(), Some(Pin::Sql(PinReason::Sequence)));
}

#[test]
fn d1_statements_with_names_are_rewritten() {
    let first = query("SELECT 1");
    let describe = |name: &str| frame(b'D', format!("S{name}\0").as_bytes());
    let close = |name: &str| frame(b'C', format!("S{name}\0").as_bytes());
    for message in [parse("s1", "SELECT 1"), bind("s1"), describe("s1"), close("s1"), query("DEALLOCATE s1")] {
        let verdict = read(&mut Inspector::new(true), &[first.clone(), message]);
        assert_eq!(verdict, (Verdict::Rewrite(first.len()), "Q".to_owned()));
    }
    let mut inspector = Inspector::new(true);
    let long = parse("s1", &"x".repeat(STATEMENT));
    assert_eq!(read(&mut inspector, &[long[..STATEMENT - 1].to_vec()]).0, Verdict::Forward(0), "it may still be whole soon");
    assert_eq!(read(&mut inspector, &[long[..STATEMENT].to_vec()]).0, Verdict::Rewrite(0));
}

#[test]
fn c10_an_unnamed_statement_of_another_batch_is_remembered_or_pins() {
    let mut inspector = Inspector::new(true);
    let message = parse("", "SELECT 1");
    read(&mut inspector, &[message.clone(), sync()]);
    assert_eq!(inspector.take_remember(), Some(Remember::Range(narrow(6)..narrow(message.len()))));
    assert_eq!((inspector.pin(), inspector.take_remember()), (None, None));
    read(&mut inspector, &[query("SELECT 1")]);
    assert_eq!(inspector.take_remember(), Some(Remember::Nothing), "a Query destroys it");
    read(&mut inspector, &[query("SELECT 1")]);
    assert!(!inspector.has_news(), "there is nothing to forget");
    assert_eq!(read(&mut Inspector::new(true), &[bind(""), sync()]), (Verdict::Rewrite(0), String::new()));

    let mut inspector = Inspector::new(true);
    read(&mut inspector, &[parse("", &"x".repeat(UNNAMED)), sync()]);
    assert_eq!(inspector.pin(), Some(Pin::Unnamed));
    assert_eq!(read(&mut inspector, &[bind("")]).1, "B");
    assert_eq!(inspector.pin(), Some(Pin::Unnamed), "its portal is still to be run");
    read(&mut inspector, &[sync()]);
    assert_eq!(inspector.pin(), None);
}

#[test]
fn only_an_unnamed_parse_is_what_the_unnamed_statement_is_from_now_on() {
    for other in [frame(b'P', b""), parse("named", "SELECT 2")] {
        let mut inspector = Inspector::new(false);
        read(&mut inspector, &[parse("", "SELECT 1"), other, frame(b'E', b"\0\0\0\0\0")]);
        assert_eq!(inspector.take_remember(), Some(Remember::Range(6..17)));
    }
}

#[test]
fn a_terminate_is_not_sent_on() {
    let first = query("SELECT 1");
    let verdict = read(&mut Inspector::default(), &[first.clone(), frame(b'X', b""), query("SELECT 2")]);
    assert_eq!(verdict, (Verdict::End(first.len(), None), "Q".to_owned()));
}

#[test]
fn what_comes_before_what_no_client_may_say_is_sent_on() {
    let first = query("SELECT 1");
    let verdict = read(&mut Inspector::default(), &[first.clone(), frame(b'!', b""), query("SELECT 2")]);
    assert_eq!(verdict, (Verdict::End(first.len(), Some(Malformed::Kind(b'!'))), "Q".to_owned()));
}

#[test]
fn small_messages_are_held_until_whole_and_large_ones_stream() {
    let small = query("SELECT 1");
    assert_eq!(read(&mut Inspector::default(), &[small[..10].to_vec()]), (Verdict::Forward(0), String::new()));
    let large = query(&"x".repeat(HELD));
    let mut inspector = Inspector::default();
    assert_eq!(read(&mut inspector, &[large[..HELD - 1].to_vec()]), (Verdict::Forward(0), String::new()), "its names may be cut");
    let (head, tail) = large.split_at(HELD);
    assert_eq!(read(&mut inspector, &[head.to_vec()]), (Verdict::Forward(HELD), "Q".to_owned()));
    assert!(!inspector.at_edge() && inspector.is_dirty(), "what cannot be read whole may leave anything");
    assert_eq!(read(&mut inspector, &[tail.to_vec(), sync()]), (Verdict::Forward(tail.len() + 5), "S".to_owned()));
    assert!(inspector.at_edge());
}

#[test]
fn c2_a_query_behind_a_batch_waits_and_what_is_discarded_leaves_nothing() {
    for renames in [true, false] {
        let mut inspector = Inspector::new(renames);
        let batch = [parse("", "SELECT 1"), bind(""), query("LISTEN x"), sync(), query("SELECT 2")];
        let open = batch[..2].concat().len();
        assert_eq!(read(&mut inspector, &batch), (Verdict::Rewrite(open), "PB".to_owned()));
        let behind = batch[2..].concat();
        let mut sent = String::new();
        let skipping = Turn { is_skipping: true, ..Turn::default() };
        let verdict = inspector.read(&behind, skipping, |kind| sent.push(char::from(kind)));
        assert_eq!((verdict, sent.as_str()), (Verdict::Forward(behind.len()), "QSQ"));
        assert_eq!(inspector.pin(), None, "the server has not listened");
        assert_eq!(read(&mut inspector, &batch[2..3]), (Verdict::Forward(batch[2].len()), "Q".to_owned()));
        assert_eq!(inspector.pin(), Some(Pin::Sql(PinReason::Listen)));
    }
}

#[test]
fn d5_what_may_be_discarded_is_noted_and_what_may_be_anothers_is_waited_for() {
    let mut inspector = Inspector::new(true);
    // Behind anything that may fail, a Parse may be discarded.
    assert_eq!(read(&mut inspector, &[query("SELECT 1"), parse("", "SELECT 2")]).0, Verdict::Rewrite(query("SELECT 1").len()));
    assert_eq!(inspector.unnamed().may_be_discarded(), Some(false));
    // What is owed is unknown here until a Sync ends the batch.
    let mut inspector = Inspector::new(true);
    let (parse, bind) = (parse("", "SELECT 1"), bind(""));
    let turn = Turn { owes: true, ..Turn::default() };
    assert_eq!(read(&mut inspector, &[parse.clone(), bind.clone(), sync()]).1, "PBS");
    assert_eq!(inspector.read(&bind, turn, |_| ()), Verdict::Rewrite(0), "it may have failed");
    assert!(inspector.unnamed().is_in_doubt(b'B', &bind[5..]));
    inspector.unnamed().parsed();
    assert_eq!(inspector.read(&bind, turn, |_| ()), Verdict::Forward(bind.len()));
    let mut inspector = Inspector::new(true);
    read(&mut inspector, &[parse, sync()]);
    assert!(inspector.failed(), "there is none");
    assert_eq!(inspector.read(&bind, Turn::default(), |_| ()), Verdict::Rewrite(0));
}

proptest! {
    #[test]
    fn b2_any_split_sends_the_same_messages_on(
        kinds in prop::collection::vec((prop::sample::select(&b"QPBDECHSdcf"[..]), 0usize..60), 1..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        // A Query behind a batch waits for its end.
        let kinds: Vec<_> = kinds.into_iter().flat_map(|(kind, length)| match kind {
            b'Q' => vec![(b'S', 0), (kind, length)],
            b'H' | b'S' => vec![(kind, 0)],
            _ => vec![(kind, length)],
        }).collect();
        let stream: Vec<u8> = kinds.iter().flat_map(|(kind, length)| {
            let body = if *kind == b'B' { [b"\0s\0".as_slice(), &vec![b'x'; *length]].concat() } else { vec![b'x'; *length] };
            frame(*kind, &body)
        }).collect();
        let mut edges: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).chain([0, stream.len()]).collect();
        edges.sort_unstable();
        let (mut inspector, mut held, mut sent, mut forwarded) = (Inspector::new(false), Vec::new(), Vec::new(), Vec::new());
        for edge in edges.windows(2) {
            held.extend_from_slice(&stream[edge[0]..edge[1]]);
            match inspector.read(&held, Turn::default(), |kind| sent.push(kind)) {
                Verdict::Forward(count) => forwarded.extend(held.drain(..count)),
                other => prop_assert!(false, "unexpected {other:?}"),
            }
        }
        prop_assert_eq!(sent, kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>());
        prop_assert_eq!(forwarded, stream);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
        let (a, b) = bytes.split_at(cut.index(bytes.len() + 1));
        let mut inspector = Inspector::default();
        if !matches!(inspector.read(a, Turn::default(), |_| ()), Verdict::End(..)) {
            let _ = inspector.read(b, Turn::default(), |_| ());
        }
    }
}
