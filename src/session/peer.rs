//! A lease that lasts: the kernel watches over its client.

use super::relay::Relay;

impl Relay<'_> {
    /// A lease that lasts: the kernel is to notice a client that has gone without a word. While idle, a frozen client must not be given up.
    pub(super) fn watch_peer(&mut self) {
        let config = self.client.worker.house.config.load();
        let working = &config.client_tcp.working;
        if let Some(idle) = working.idle {
            // A socket that does not take an option ends soon anyway.
            let _ = self.client.io.set_keepalive(idle, working.interval, working.count);
        }
        let _ = self.client.io.set_user_timeout(working.user_timeout);
        self.client.watch.set(|timing| timing.watched = true);
    }

    pub(super) fn unwatch_peer(&mut self) {
        if !self.client.watch.timing().watched {
            return;
        }
        let config = self.client.worker.house.config.load();
        let working = &config.client_tcp.working;
        let _ = match config.client_tcp.idle_keepalive {
            Some(idle) => self.client.io.set_keepalive(idle, working.interval, working.count),
            None => self.client.io.clear_keepalive(),
        };
        let _ = self.client.io.set_user_timeout(None);
    }
}
