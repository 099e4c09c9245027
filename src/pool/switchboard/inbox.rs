//! What has come for one listening client and its task has not taken yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use parking_lot::Mutex;

/// What may wait for a client that does not take it, in bytes; it is there once for all of them. A server would let all wait when its queue is full.
const MOST: usize = 16 << 20;

/// Why nothing more will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The shared connection was lost: what was notified since is not known.
    Lost,
    /// The client does not take what comes.
    Full,
}

/// Where an operator puts what a client is to hear.
#[derive(Debug)]
pub struct Inbox {
    waker: Waker,
    has_news: AtomicBool,
    news: Mutex<News>,
}

#[derive(Debug, Default)]
struct News {
    messages: VecDeque<Arc<[u8]>>,
    bytes: usize,
    ending: Option<Ending>,
}

impl Inbox {
    /// An empty one; `waker` wakes its client's task.
    pub fn new(waker: Waker) -> Self {
        Self { waker, has_news: AtomicBool::new(false), news: Mutex::default() }
    }

    /// Whether there is something to take.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Acquire)
    }

    /// Whether more has come than can wait for the client.
    #[cold]
    pub fn is_full(&self) -> bool {
        self.news.lock().ending == Some(Ending::Full)
    }

    /// What has come, whole messages in order, about `most` bytes of them, and whether that was all for ever.
    pub fn take(&self, most: usize) -> (Vec<Arc<[u8]>>, Option<Ending>) {
        let mut news = self.news.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < most
            && let Some(message) = news.messages.pop_front()
        {
            bytes += message.len();
            taken.push(message);
        }
        news.bytes = news.bytes.saturating_sub(bytes);
        let is_empty = news.messages.is_empty();
        if is_empty {
            news.messages = VecDeque::new();
        }
        self.has_news.store(!is_empty || news.ending.is_some(), Ordering::Release);
        (taken, news.ending.filter(|_| is_empty))
    }

    /// Puts a message in.
    pub(super) fn put(&self, message: &Arc<[u8]>) {
        let mut news = self.news.lock();
        if news.ending.is_some() {
            return;
        }
        if news.bytes.saturating_add(message.len()) > MOST {
            drop(news);
            return self.end(Ending::Full);
        }
        news.bytes = news.bytes.saturating_add(message.len());
        news.messages.push_back(Arc::clone(message));
        self.tell(news);
    }

    /// Nothing more will come.
    pub(super) fn end(&self, ending: Ending) {
        let mut news = self.news.lock();
        if ending == Ending::Full {
            // Half of what it should have heard is worse than none.
            news.messages = VecDeque::new();
        }
        news.ending.get_or_insert(ending);
        self.tell(news);
    }

    fn tell(&self, news: parking_lot::MutexGuard<'_, News>) {
        self.has_news.store(true, Ordering::Release);
        drop(news);
        self.waker.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox() -> Inbox {
        Inbox::new(Waker::noop().clone())
    }

    #[test]
    fn what_was_put_in_is_taken_once_and_in_order() {
        let inbox = inbox();
        assert!(!inbox.has_news());
        inbox.put(&Arc::from(*b"one"));
        inbox.put(&Arc::from(*b"two"));
        assert!(inbox.has_news());
        let (messages, ending) = inbox.take(usize::MAX);
        assert_eq!((messages.iter().map(|message| &**message).collect::<Vec<_>>(), ending), (vec![&b"one"[..], b"two"], None));
        assert!(!inbox.has_news() && inbox.take(usize::MAX).0.is_empty());
        inbox.put(&Arc::from(*b"three"));
        inbox.put(&Arc::from(*b"four"));
        inbox.end(Ending::Lost);
        let (messages, ending) = inbox.take(3);
        assert_eq!((messages.len(), ending, inbox.has_news()), (1, None, true), "so much at a time");
        assert_eq!(inbox.take(3).1, Some(Ending::Lost));
    }

    #[test]
    fn who_takes_nothing_is_given_up_and_what_it_has_not_heard_with_it() {
        let inbox = inbox();
        let message: Arc<[u8]> = vec![0; MOST / 4].into();
        for _ in 0..4 {
            inbox.put(&message);
        }
        assert_eq!(inbox.news.lock().messages.len(), 4);
        inbox.put(&Arc::from(*b"x"));
        inbox.put(&Arc::from(*b"y"));
        assert_eq!(inbox.take(usize::MAX), (Vec::new(), Some(Ending::Full)));
        assert!(inbox.has_news(), "it stays so");
    }

    #[test]
    fn what_came_before_the_end_is_heard() {
        let inbox = inbox();
        inbox.put(&Arc::from(*b"one"));
        inbox.end(Ending::Lost);
        inbox.end(Ending::Full);
        assert_eq!(inbox.take(usize::MAX).1, Some(Ending::Lost));
    }
}
