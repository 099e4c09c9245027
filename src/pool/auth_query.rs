//! Passwords of users whom the configuration does not list: asked of the upstream, on the control thread, over connections that nothing of a client's
//! ever touches (A10, CVE-2025-12819). Off the hot path: once per login at most.
//!
//! These are ordinary connections of an ordinary pool (deadpool), beside the upstream's budget and within its `control_connections`; one of those is left
//! to cancels. Answers are remembered for a moment, so that a storm of logins is one question.

mod answers;
mod desk;
mod opener;
mod row;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use self::answers::Answer;
use self::desk::Desk;
use super::mail::Job;
use super::shared::Upstream;
use crate::config::Config;
use crate::upstream::Broken;

/// Longer names are nobody's: PostgreSQL's own end at 63 bytes, and what is remembered must have a limit. In bytes.
const LONGEST_NAME: usize = 256;

/// The answer to a user's name: what is stored of the password, or `None` where there is no such user, or none that may log in by password.
///
/// For workers: the question itself is put on the control thread. Cancel safe: the answer is remembered there even if nobody waits for it any more.
///
/// # Errors
/// When the upstream could not be asked, which says nothing about the user.
pub async fn auth_query(upstream: &Arc<Upstream>, config: &Arc<Config>, user: &str) -> Answer {
    let asks = config.upstreams.get(&upstream.name).is_some_and(|configured| configured.auth_query.is_some());
    if !asks || user.len() > LONGEST_NAME {
        return Ok(None);
    }
    let (reply, answer) = oneshot::channel();
    upstream.ask(Job::AuthQuery { upstream: Arc::clone(upstream), config: Arc::clone(config), user: user.into(), reply });
    answer.await.unwrap_or_else(|_| Err(Arc::new(Broken::Closed)))
}

/// All upstreams' desks. Lives on the control thread.
#[derive(Debug, Default)]
pub struct AuthQueries {
    desks: RefCell<HashMap<String, Rc<Desk>>>,
}

impl AuthQueries {
    /// Asks an upstream for a user, unless that was asked a moment ago; those who ask for the same user at the same time share one question.
    ///
    /// Cancel safe: whoever else waits for the same answer goes on with the question.
    ///
    /// # Errors
    /// When the upstream could not be asked.
    pub async fn ask(&self, upstream: &Arc<Upstream>, config: &Config, user: &str) -> Answer {
        match self.desk(upstream, config) {
            Some(desk) if user.len() <= LONGEST_NAME => desk.ask(user).await,
            _ => Ok(None),
        }
    }

    /// The desk that asks as the configuration says; one that asks otherwise closes once it has answered.
    fn desk(&self, upstream: &Arc<Upstream>, config: &Config) -> Option<Rc<Desk>> {
        let configured = config.upstreams.get(&upstream.name)?;
        let question = configured.auth_query.as_ref()?;
        let mut desks = self.desks.borrow_mut();
        if let Some(desk) = desks.get(&upstream.name)
            && desk.serves(upstream, question, configured.auth_query_connections())
        {
            return Some(Rc::clone(desk));
        }
        let desk = Rc::new(Desk::open(upstream, question.clone(), configured.auth_query_connections()));
        desks.insert(upstream.name.clone(), Rc::clone(&desk));
        Some(desk)
    }
}
