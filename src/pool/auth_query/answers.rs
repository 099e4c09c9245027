//! What was answered a moment ago, and what is being asked: bookkeeping only, which is told what time it is.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::auth::Secret;
use crate::net::Moment;
use crate::upstream::Broken;

/// What is known of a user's password; `None`: there is no such user; an error: that could not be found out.
pub type Answer = Result<Option<Arc<Secret>>, Arc<Broken>>;

/// How long an answer holds. The same for users that there are and that there are not: else the time of a second login would tell which (A11).
pub(super) const FRESH: Duration = Duration::from_secs(5);
/// How long it is taken for granted that an upstream that could not answer still cannot.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// How many answers are remembered at most; with their names some 3 MB.
const MOST: usize = 4096;

/// One question, asked once for all who want to know.
#[derive(Debug, Default)]
pub(super) struct Question {
    pub(super) answer: OnceCell<Answer>,
    until: Cell<Option<Moment>>,
}

impl Question {
    /// Whether its answer can be had, now or when it comes.
    fn is_fresh(&self, now: Moment) -> bool {
        self.until.get().is_none_or(|until| now < until)
    }

    /// It has just been answered.
    pub(super) fn answered(&self, now: Moment, answer: &Answer) {
        self.until.set(Some(now + if answer.is_ok() { FRESH } else { PAUSE }));
    }
}

/// The questions of one upstream by the user's name.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_user: HashMap<Rc<str>, Rc<Question>, foldhash::fast::RandomState>,
    /// In the order in which they were asked.
    order: VecDeque<(Rc<str>, Rc<Question>)>,
}

impl Answers {
    /// The question after `user`: one that is fresh, or a new one.
    pub(super) fn question(&mut self, now: Moment, user: &str) -> Rc<Question> {
        if let Some(question) = self.by_user.get(user)
            && question.is_fresh(now)
        {
            return Rc::clone(question);
        }
        while self.order.len() >= MOST || self.order.front().is_some_and(|(_, oldest)| !oldest.is_fresh(now)) {
            self.forget_oldest();
        }
        let (name, question) = (Rc::<str>::from(user), Rc::new(Question::default()));
        self.by_user.insert(Rc::clone(&name), Rc::clone(&question));
        self.order.push_back((name, Rc::clone(&question)));
        question
    }

    /// Those who wait for its answer still get it.
    fn forget_oldest(&mut self) {
        let Some((name, oldest)) = self.order.pop_front() else { return };
        // The user may have been asked for again meanwhile.
        if self.by_user.get(&name).is_some_and(|question| Rc::ptr_eq(question, &oldest)) {
            self.by_user.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::now;

    fn answer(question: &Question, now: Moment, answer: Answer) {
        question.answered(now, &answer);
        question.answer.set(answer).unwrap();
    }

    #[test]
    fn a_question_is_shared_until_its_answer_is_old() {
        let (mut answers, start) = (Answers::default(), now());
        let first = answers.question(start, "a");
        assert!(Rc::ptr_eq(&first, &answers.question(start + FRESH * 10, "a")), "it is still being asked");
        assert!(!Rc::ptr_eq(&first, &answers.question(start, "b")));
        answer(&first, start, Ok(None));
        assert!(Rc::ptr_eq(&first, &answers.question(start + FRESH / 2, "a")));
        let second = answers.question(start + FRESH, "a");
        assert!(!Rc::ptr_eq(&first, &second));
        // The old one is forgotten without taking the new one with it.
        assert!(Rc::ptr_eq(&second, &answers.question(start + FRESH, "a")));
    }

    #[test]
    fn a11_there_being_no_such_user_is_remembered_as_long_as_a_password() {
        let (mut answers, start) = (Answers::default(), now());
        let known = Ok(Some(Arc::new(Secret::parse("secret").unwrap())));
        let (there, gone) = (answers.question(start, "there"), answers.question(start, "gone"));
        answer(&there, start, known);
        answer(&gone, start, Ok(None));
        assert_eq!(there.until.get(), gone.until.get());
    }

    #[test]
    fn a_failure_is_taken_for_granted_only_for_a_moment() {
        let (mut answers, start) = (Answers::default(), now());
        let question = answers.question(start, "a");
        answer(&question, start, Err(Arc::new(Broken::Closed)));
        assert!(Rc::ptr_eq(&question, &answers.question(start + PAUSE / 2, "a")));
        assert!(!Rc::ptr_eq(&question, &answers.question(start + PAUSE, "a")));
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let (mut answers, start) = (Answers::default(), now());
        for user in 0..MOST * 3 {
            let question = answers.question(start, &user.to_string());
            if user % 2 == 0 {
                answer(&question, start, Ok(None));
            }
        }
        assert_eq!(answers.by_user.len(), MOST);
        assert_eq!(answers.order.len(), MOST);
        answers.order.iter().for_each(|(_, question)| question.answered(start, &Ok(None)));
        answers.question(start + FRESH, "last");
        assert_eq!((answers.by_user.len(), answers.order.len()), (1, 1));
    }
}
