//! Where one upstream is asked: its pool of connections, and what it answered a moment ago.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, WeakPool};
use tokio_postgres::types::Type;
use tokio_postgres::{Config, Row};
use zeroize::Zeroizing;

use super::answers::{Answer, Answers, PAUSE};
use super::{opener::Opener, row};
use crate::config::AuthQuery;
use crate::net::{Moment, now};
use crate::pool::adopted;
use crate::pool::shared::Upstream;
use crate::upstream::{Broken, Login, ServerSecret};

/// How long the server may take to answer, and how long a question may wait for its turn.
const LIMIT: Duration = Duration::from_secs(5);
/// What the network may take on top.
const GRACE: Duration = Duration::from_secs(1);
/// How long a connection may lie idle before it is closed.
const IDLE: Duration = Duration::from_mins(1);

/// The desk of one upstream.
#[derive(Debug)]
pub(super) struct Desk {
    question: AuthQuery,
    upstream: Arc<Upstream>,
    connections: u32,
    pool: Pool,
    answers: RefCell<Answers>,
    /// Why no connection could be had, and until when that is taken for granted.
    unreachable: RefCell<Option<(Moment, Arc<Broken>)>>,
}

impl Desk {
    /// A desk without a connection yet.
    pub(super) fn open(upstream: &Arc<Upstream>, question: AuthQuery, connections: u32) -> Self {
        let secret = question
            .password
            .as_ref()
            .map_or(ServerSecret::None, |password| ServerSecret::Password(Arc::new(Zeroizing::new(password.reveal().to_owned()))));
        let login = Login { user: question.user.clone().into(), dbname: question.dbname.clone().into(), replication: None, secret };
        let opener = Opener { upstream: Arc::clone(upstream), login, limit: LIMIT };
        // A connection is as good as its last answer; one round trip more would not make it better.
        let manager = Manager::from_connect(Config::new(), opener, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let most = usize::try_from(connections).unwrap_or(usize::MAX);
        let opening = upstream.target().options.timeout + LIMIT;
        let pool = Pool::builder(manager)
            .max_size(most)
            .wait_timeout(Some(LIMIT))
            .create_timeout(Some(opening))
            .recycle_timeout(Some(LIMIT))
            .runtime(Runtime::Tokio1)
            .build();
        let pool = pool.unwrap_or_else(|_| unreachable!("a pool with a runtime can have timeouts"));
        tokio::task::spawn_local(close_idle(pool.weak()));
        Self { question, upstream: Arc::clone(upstream), connections, pool, answers: RefCell::default(), unreachable: RefCell::default() }
    }

    /// Whether it asks this upstream this question over as many connections.
    pub(super) fn serves(&self, upstream: &Arc<Upstream>, question: &AuthQuery, connections: u32) -> bool {
        Arc::ptr_eq(&self.upstream, upstream) && self.question == *question && self.connections == connections
    }

    /// The answer, perhaps of a moment ago. Cancel safe: another who waits for the same goes on asking.
    pub(super) async fn ask(&self, user: &str) -> Answer {
        let question = self.answers.borrow_mut().question(now(), user);
        let asked = question.answer.get_or_init(|| async {
            let answer = self.look_up(user).await;
            question.answered(now(), &answer);
            answer
        });
        asked.await.clone()
    }

    async fn look_up(&self, user: &str) -> Answer {
        if let Some((until, why)) = &*self.unreachable.borrow()
            && now() < *until
        {
            return Err(Arc::clone(why));
        }
        let looked_up = match self.rows(user).await {
            Ok(rows) => row::read(&rows, user, SystemTime::now()),
            Err(why) => Err(why),
        };
        looked_up.map(|secret| secret.map(Arc::new)).map_err(|why| {
            tracing::warn!(upstream = self.upstream.name, user, %why, "auth_query has no answer");
            Arc::new(why)
        })
    }

    async fn rows(&self, user: &str) -> Result<Vec<Row>, Broken> {
        loop {
            let client = self.connection().await?;
            let was_used = Object::metrics(&client).recycle_count > 0;
            let asked = async { client.query_typed(&self.question.query, &[(&user, Type::TEXT)]).await };
            let why = match tokio::time::timeout(LIMIT + GRACE, asked).await {
                Ok(Ok(rows)) => return Ok(rows),
                // The server has an answer, and the connection is in order.
                Ok(Err(error)) if error.as_db_error().is_some_and(|error| error.parsed_severity().is_none_or(is_survivable)) => {
                    return Err(broken(&error));
                }
                Ok(Err(error)) => broken(&error),
                Err(_) => Broken::TimedOut(LIMIT + GRACE),
            };
            drop(Object::take(client));
            // The server may have closed it while it lay idle; each turn takes one out of the pool, so that this ends.
            if !was_used || matches!(why, Broken::TimedOut(_)) {
                return Err(why);
            }
        }
    }

    async fn connection(&self) -> Result<Object, Broken> {
        let why = match self.pool.get().await {
            Ok(client) => {
                self.unreachable.replace(None);
                return Ok(client);
            }
            Err(PoolError::Backend(error)) => broken(&error),
            // Others are being answered: nothing is wrong with the server, as far as is known.
            Err(PoolError::Timeout(deadpool_postgres::TimeoutType::Wait)) => return Err(Broken::TimedOut(LIMIT)),
            Err(PoolError::Timeout(_)) => Broken::TimedOut(self.upstream.target().options.timeout),
            Err(PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)) => Broken::Closed,
        };
        self.unreachable.replace(Some((now() + PAUSE, Arc::new(why.clone()))));
        Err(why)
    }
}

/// Whether the session goes on after an error of this severity.
fn is_survivable(severity: tokio_postgres::error::Severity) -> bool {
    use tokio_postgres::error::Severity;
    !matches!(severity, Severity::Fatal | Severity::Panic)
}

fn broken(error: &tokio_postgres::Error) -> Broken {
    adopted::broken(error, Broken::AuthQuery)
}

/// Closes connections that nobody has needed for a while, until the pool is gone.
async fn close_idle(pool: WeakPool) {
    loop {
        tokio::time::sleep(IDLE / 6).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.retain(|_, metrics| metrics.last_used() < IDLE);
    }
}
