//! A network between two ends, in the hands of the test: it forwards bytes until it is told to cut, delay, stall or half-close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From whoever connected to where this leads.
    Onward,
    /// From where this leads back to whoever connected.
    Back,
}

/// How one direction treats bytes now.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    stalled: bool,
    delay: Duration,
}

/// What happens to all connections of this moment.
#[derive(Clone, Copy, Debug)]
enum Event {
    Reset,
    End(Way),
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    bytes: [AtomicU64; 2],
}

/// A TCP forwarder with faults on demand.
pub struct Faulty {
    address: SocketAddr,
    weather: [watch::Sender<Weather>; 2],
    refusing: watch::Sender<bool>,
    events: broadcast::Sender<Event>,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

impl Faulty {
    /// Listens on 127.0.0.1 and forwards to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").await.unwrap(), target)
    }

    /// The same with segments as small as between machines: a socket takes some ten kilobytes then, not megabytes.
    pub async fn of_small_segments_to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        SockRef::from(&listener).set_tcp_mss(536).unwrap();
        Self::at(listener, target)
    }

    fn at(listener: TcpListener, target: SocketAddr) -> Self {
        let address = listener.local_addr().unwrap();
        let weather = [watch::Sender::default(), watch::Sender::default()];
        let refusing = watch::Sender::new(false);
        let events = broadcast::Sender::new(16);
        let counts = Arc::new(Counts::default());
        let link =
            Link { target, weather: [weather[0].subscribe(), weather[1].subscribe()], events: events.clone(), counts: Arc::clone(&counts) };
        let accepting = tokio::spawn(accept(listener, refusing.subscribe(), link));
        Self { address, weather, refusing, events, counts, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Bytes forwarded one way so far, over all connections.
    pub fn bytes(&self, way: Way) -> u64 {
        self.counts.bytes[way as usize].load(Ordering::Relaxed)
    }

    /// Ends all connections with RST on both sides.
    pub fn cut(&self) {
        let _ = self.events.send(Event::Reset);
    }

    /// Ends one direction of all connections with FIN; the other goes on.
    pub fn half_close(&self, way: Way) {
        let _ = self.events.send(Event::End(way));
    }

    /// Stops forwarding one way: bytes pile up at the sender, nothing is lost, nobody is told.
    pub fn stall(&self, way: Way) {
        self.weather[way as usize].send_modify(|weather| weather.stalled = true);
    }

    /// Delays every piece that goes one way.
    pub fn delay(&self, way: Way, by: Duration) {
        self.weather[way as usize].send_modify(|weather| weather.delay = by);
    }

    /// Resets whoever connects from now on.
    pub fn refuse(&self) {
        self.refusing.send_replace(true);
    }

    /// No stall, no delay, no refusal from now on.
    pub fn heal(&self) {
        self.refusing.send_replace(false);
        for weather in &self.weather {
            weather.send_replace(Weather::default());
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

#[derive(Clone)]
struct Link {
    target: SocketAddr,
    weather: [watch::Receiver<Weather>; 2],
    events: broadcast::Sender<Event>,
    counts: Arc<Counts>,
}

async fn accept(listener: TcpListener, refusing: watch::Receiver<bool>, link: Link) {
    loop {
        let (near, _) = listener.accept().await.expect("the forwarder accepts");
        if *refusing.borrow() {
            reset_on_close(&near);
            continue;
        }
        tokio::spawn(link.clone().forward(near));
    }
}

impl Link {
    async fn forward(self, near: TcpStream) {
        let mut events = self.events.subscribe();
        let Ok(far) = TcpStream::connect(self.target).await else {
            reset_on_close(&near);
            return;
        };
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
        let [onward_weather, back_weather] = self.weather.clone();
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let mut onward = Direction::new(Way::Onward, near_read, far_write, onward_weather);
        let mut back = Direction::new(Way::Back, far_read, near_write, back_weather);
        while onward.open || back.open {
            let event = tokio::select! {
                event = onward.run(&self.counts), if onward.open => event,
                event = back.run(&self.counts), if back.open => event,
                event = events.recv() => event.unwrap_or(Event::Reset),
            };
            match event {
                Event::End(Way::Onward) => onward.end().await,
                Event::End(Way::Back) => back.end().await,
                Event::Reset => {
                    reset_on_close(onward.from.as_ref());
                    reset_on_close(back.from.as_ref());
                    // A write half says goodbye (FIN) when it is dropped: a reset must come without one.
                    onward.to.forget();
                    back.to.forget();
                    break;
                }
            }
        }
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One direction of one connection. [`run`](Self::run) may be dropped between any two steps without losing a byte.
struct Direction {
    way: Way,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
    pending: bytes::BytesMut,
    open: bool,
}

impl Direction {
    fn new(way: Way, from: OwnedReadHalf, to: OwnedWriteHalf, weather: watch::Receiver<Weather>) -> Self {
        Self { way, from, to, weather, pending: bytes::BytesMut::with_capacity(64 * 1024), open: true }
    }

    /// Forwards until the sender ends (then so does this direction) or either side breaks (then all of the connection does).
    async fn run(&mut self, counts: &Counts) -> Event {
        loop {
            let _ = self.weather.wait_for(|weather| !weather.stalled).await;
            if self.pending.is_empty() {
                match self.from.read_buf(&mut self.pending).await {
                    Ok(0) => return Event::End(self.way),
                    Ok(_) => {}
                    Err(_) => return Event::Reset,
                }
            }
            let delay = self.weather.borrow().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            // A stall may have begun while this piece was on its way.
            let _ = self.weather.wait_for(|weather| !weather.stalled).await;
            while !self.pending.is_empty() {
                match self.to.write_buf(&mut self.pending).await {
                    Ok(count) => {
                        let count = u64::try_from(count).unwrap();
                        counts.bytes[self.way as usize].fetch_add(count, Ordering::Relaxed);
                    }
                    Err(_) => return Event::Reset,
                }
            }
        }
    }

    async fn end(&mut self) {
        self.open = false;
        let _ = self.to.shutdown().await;
    }
}

fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
